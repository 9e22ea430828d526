"""What lies on disk, as labelled lazy arrays.

Imports no other folder of analysis.
"""
