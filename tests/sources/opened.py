"""Sources by their path, as most tests mean them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vdbackup.sources.disk_source import DiskSource
from vdbackup.sources.opening import Hints, open_file
from vdbackup.sources.reference import SourceRef


def open_path(
    path: Path,
    parents_in: Sequence[Path] = (),
    said: str | None = None,
    before: str | None = None,
) -> DiskSource:
    return open_file(SourceRef.of_path(path), Hints(parents_in, said, before))
