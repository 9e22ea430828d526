"""A sample's napari layers: placed, drawn, exchanged. No Qt.

May import `data`.
"""
