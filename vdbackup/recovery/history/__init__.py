"""What has become of files over the points of a set.

Read in this order: changes, which blocks of the disk differ; disks, the points one after the other;
unlocking, what is encrypted in them; walk, all files of one; then versions, find (with index),
differences, and owners, which says whose the changed blocks are, with leaving_out, which of them
need not be kept.
"""
