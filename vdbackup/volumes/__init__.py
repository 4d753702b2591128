"""What lies on a disk: partitions, logical volumes, arrays, and the file systems in them.

Read in this order: partitions, lvm, raid, places, signatures, filesystems/, volumes.
"""
