"""Volumes, their levels and SRAM, lazily.

May import `kernel` and `stores`.
"""
