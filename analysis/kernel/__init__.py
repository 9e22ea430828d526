"""Arithmetic on arrays: logits, softmax, resize. NumPy, and Numba where that pays (`arithmetic`).

Imports no other folder of analysis.
"""
