"""Pictures, animations and Python of what is in view.

May import `picking`, `session`, `scene` and `data`.
"""
