"""Volumes, their levels and SRAM, lazily, and a whole run's maps on a cluster.

May import `kernel` and `stores`.
"""
