"""Chosen files as a source: a disk with one ext4, kept as the files are. Read first: image.py."""
