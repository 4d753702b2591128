"""The recovery module: from a recovery point back to a machine, a disk or a file.

The files in a point: browse, extract. A virtual machine on it: sessions/. What is changed for it on
the overlay: retarget/. Whether it comes up: boot_test/. Somewhere else: target, packages, restore
and, in the programs of others, other_hardware, machine_xml, ovf, other_programs, relinking.
"""
