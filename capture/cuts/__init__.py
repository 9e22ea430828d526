"""Cutting reference tokens out of a running model's attention.

May import `recording` and what that may.
"""
