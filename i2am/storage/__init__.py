"""Stores as both stages reach them: from an address to objects that are whole, guarded and listed.

Imports only `i2am.schemas`.
"""
