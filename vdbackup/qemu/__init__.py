"""QEMU's programs: how they are called, what they are given to read, and how they are talked to.

Read in this order: devices, concatenation, qemu, accelerator, firmware, launch, monitor.
"""
