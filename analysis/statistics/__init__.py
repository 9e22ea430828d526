"""Over samples and between runs: averages, groups, differences, comparison.

May import `maps`, `scores`, `kernel` and `stores`.
"""
