"""The recovery module: from a recovery point back to a machine, a disk or a file.

A virtual machine: qemu, accelerator, monitor, session_folder, vm, in this order.
"""
