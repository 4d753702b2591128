"""Where the drawings in resources/ are: beside the package, or where an installation puts them."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDERS = (
    Path(__file__).resolve().parents[2] / "resources",
    Path(sys.prefix) / "share" / "vdbackup",
    Path(__file__).resolve().parents[2] / "share" / "vdbackup",  # pip install --target
)


def drawing(name: str) -> Path:
    """The file of a drawing; raises FileNotFoundError."""
    for folder in FOLDERS:
        file = folder / f"{name}.svg"
        if file.is_file():
            return file
    raise FileNotFoundError(f"no {name}.svg in {' or '.join(map(str, FOLDERS))}")
