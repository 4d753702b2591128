"""A Windows on a disk, and its registry."""
