"""A store as a stranger may have made it, read so that nothing of it can do harm.

Imports of storage only how buckets fail.
"""
