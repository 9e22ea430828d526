"""One dock widget a file.

May import every other folder of the viewer.
"""
