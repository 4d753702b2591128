"""The process behind a folder that stays (background.py)."""

from __future__ import annotations

import sys

from vdbackup.recovery.mount.background import main

if __name__ == "__main__":
    sys.exit(main())
