"""Logs of every write to a disk: read, folded into a map at any of the writes, begun and noted."""
