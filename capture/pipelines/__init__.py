"""Pipelines: loaded, called, and the one that ships with i2am.

Imports no other folder of capture.
"""
