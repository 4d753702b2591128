"""Virtual machines on a point, and what is left of them.

Read in this order: record, folder, session, vm, sessions.
"""
