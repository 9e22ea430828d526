"""Measuring what cuts change in the picture, for one call and for the samples of a run.

May import every other folder of the stage.
"""
