"""Whether a machine comes up from a point.

Read in this order: words, screen, readiness, boot_test.
"""
