"""The context manager `capture`, and what is kept of each sample.

May import `families`, `hooks` and `writer`.
"""
