"""The drawings in resources/: in the installed package, or beside it in a checkout."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from vdbackup.translation import tr

FOLDERS = (
    Path(str(files("vdbackup") / "resources")),  # a real path: Qt's style sheets name files
    Path(__file__).resolve().parents[2] / "resources",
)


def drawing(name: str) -> Path:
    """The file of a drawing; raises FileNotFoundError."""
    for folder in FOLDERS:
        file = folder / f"{name}.svg"
        if file.is_file():
            return file
    raise FileNotFoundError(
        tr("no {name}.svg in {names}", name=name, names=tr(" or ").join(map(str, FOLDERS)))
    )
