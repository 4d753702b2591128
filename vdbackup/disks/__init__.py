"""Virtual-disk files and nothing else.

Read in this order: extents, disk, raw, vmdk/, formats, chain, transfer.
"""
