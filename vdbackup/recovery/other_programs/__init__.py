"""A recovery point in another program's virtual machine.

Read in this order: machine, parts, libvirt, virtualbox, vmware.
"""
