"""The context manager `capture`, and what is kept of each sample, its pictures included.

May import `families`, `profiles`, `hooks`, `images` and `writer`.
"""
