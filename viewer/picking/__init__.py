"""A click becomes an SRAM on screen.

May import `session`, `scene` and `data`.
"""
