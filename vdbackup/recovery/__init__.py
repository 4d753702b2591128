"""The recovery module: from a recovery point back to a machine, a disk or a file.

The files in a point: browse, extract. A virtual machine, in this order: devices, qemu, launch,
monitor, session_record, session_folder, session, vm, sessions. What is changed for it on the
overlay: retarget/. Whether it comes up: boot_words, screen, guest_agent, signs, boot_test.
"""
