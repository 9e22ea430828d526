"""Attention mass: by source, by road, by region, and what it would be if tokens weighed otherwise.

May import `maps`, `kernel` and `stores`.
"""
