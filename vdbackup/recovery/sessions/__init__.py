"""Virtual machines on a point, and what is left of them.

Read in this order: record, files, qemu_process, folder, saved, session, vm, sessions.
"""
