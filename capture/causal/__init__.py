"""Cutting reference tokens out of a running model, and measuring what that changes in the picture.

May import every other folder of the stage.
"""
