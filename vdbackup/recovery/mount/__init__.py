"""A recovery point as a folder of this computer, read-only, mounted by whoever may read the backup.

Read in this order: tree, what the folder shows, and disk_tree, where that is one file; fuse, how
the kernel asks for it; table, which folders there are; mounting, who mounts and unmounts;
background, and __main__, the same in a process of its own.
"""
