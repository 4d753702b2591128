"""Retargeting a Linux: by its own kernel, which edits its disk."""
