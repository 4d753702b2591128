"""The recovery module: from a recovery point back to a machine, a disk or a file.

The files in a point: browse, extract. A virtual machine on it, in this order: session_record,
session_folder, session, vm, sessions. What is changed for it on the overlay: retarget/. Whether it
comes up: boot_words, screen, signs, boot_test.
"""
