"""From device memory into a Zarr store, while the model computes the next step.

Imports no other folder of capture.
"""
