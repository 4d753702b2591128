"""QCOW2. Read in this order: structs, mapping, allocation, disk, compressed."""
