"""Pictures and masks, read as people see them.

May import no other folder.
"""
