"""Loading and calling pipelines, and the pipeline that ships with i2am.

Imports no other folder of capture.
"""
