"""Virtual-disk files and nothing else.

Read in this order: names, extents, disk, raw, vmdk/, formats, chain, transfer.
"""
