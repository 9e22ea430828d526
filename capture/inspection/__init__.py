"""What a loaded model's tokens are: which layers read the reference, where, and beside what.

May import `recording` and what that builds on; nothing is stored.
"""
