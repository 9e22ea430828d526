"""What a profile is, and how models and their calls are recognised; the families build on it.

May import `hooks` and `pipelines`.
"""
