"""Retargeting a Windows: numbers in its registry, and drivers that it lacks."""
