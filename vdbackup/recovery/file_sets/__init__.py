"""Chosen files, restored as files: planned (plan.py, outlook.py), then done (restoring.py)."""
