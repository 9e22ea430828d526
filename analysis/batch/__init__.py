"""A whole run's maps, written sample by sample, on threads, processes or a cluster.

May import `kernel`, `stores` and `maps`.
"""
