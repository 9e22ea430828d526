"""Hooks that read queries and keys in a running denoiser, and change nothing in it.

Imports no other folder of capture.
"""
