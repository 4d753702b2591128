"""VHDX. Read in this order: structs, metadata, bat, disk, log."""
