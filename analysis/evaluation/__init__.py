"""Maps and generated images against what is known: places that correspond, and true pictures.

May import `maps`, `scores`, `intervals`, `kernel` and `stores`.
"""
