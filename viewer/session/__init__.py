"""What one window shows: samples, sliders, switches, keys.

May import `scene` and `data`.
"""
