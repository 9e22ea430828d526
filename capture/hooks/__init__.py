"""Hooks that read Q and K in a running denoiser and change nothing of it.

Imports no other folder of capture.
"""
