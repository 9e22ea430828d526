"""A manifest's rows become samples of one run.

May import every other folder of capture.
"""
