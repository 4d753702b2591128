"""What a person asks for, whole and once: the window and the command line only word it."""
