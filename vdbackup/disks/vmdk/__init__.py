"""VMDK. Read in this order: structs, disk, sparse, foreign, stream."""
