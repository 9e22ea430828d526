"""Over samples and between runs: averages, groups, differences, comparison, and over denoising steps.

May import `maps`, `scores`, `intervals`, `kernel` and `stores`.
"""
