"""A sample in view: axes, volumes, loading, scores. No Qt, no napari.

Imports no other folder of the viewer.
"""
