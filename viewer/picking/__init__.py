"""A click becomes an SRAM on screen, or what was measured when its place was cut.

May import `session`, `scene` and `data`.
"""
