"""VHD. Read in this order: structs, disk, fixed."""
