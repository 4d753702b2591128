"""File systems as trees of nodes, read without mounting: node.py first, then one file for each."""
