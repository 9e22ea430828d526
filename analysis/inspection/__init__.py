"""What is in a store, and what is wrong with it.

Imports stores alone.
"""
