"""Maps against measured effects: attention by region, how well it agrees, and what a cut would move.

May import `maps`, `scores`, `intervals`, `kernel` and `stores`.
"""
