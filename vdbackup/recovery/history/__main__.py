"""The process that notes the names of files (noting.py)."""

from __future__ import annotations

import sys

from vdbackup.recovery.history.noting import main

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
