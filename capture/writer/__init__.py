"""From device memory into a Zarr store while the model goes on.

Imports no other folder of capture.
"""
