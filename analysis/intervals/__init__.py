"""How far a number would move with other samples of the same kind.

May import `stores`.
"""
