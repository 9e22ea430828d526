"""Arithmetic on arrays: logits, softmax, resize. NumPy alone.

Imports no other folder of analysis.
"""
