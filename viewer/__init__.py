"""The napari plugin: a run's images and attention volumes as layers with sliders.

Importing this package loads neither napari nor Qt nor xarray; they come with the first window.
"""

from i2am.viewer.window import open_viewer, view

__all__ = ["open_viewer", "view"]
