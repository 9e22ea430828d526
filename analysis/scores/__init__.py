"""One file a score; the table of all of them.

May import `kernel` and `stores`.
"""
