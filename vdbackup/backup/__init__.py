"""The backup module of the patent: capture, merge, delete, and what keeps a set at its length."""
