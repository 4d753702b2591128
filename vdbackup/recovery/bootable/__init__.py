"""A restored disk is made to start on the computer that it is in: other hardware than it had.

`computer.py` says what that is, `making.py` plans and does it, by `mounted.py` on the disk's files
and by `firmware.py` in the memory of the UEFI.
"""
