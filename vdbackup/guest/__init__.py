"""What system lies on a disk, and what it needs to boot: read, never guessed.

Read first model.py (the answer), then inspect.py (the way to it), hardware and choice.
"""
