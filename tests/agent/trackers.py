"""Trackers of a test's own, which neither other tests nor the user see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sources.loops import mounted
from vdbackup.agent import pins


@contextmanager
def own_trackers(folder: Path) -> Iterator[Path]:
    """A bpf file system, mounted there; all trackers in it end with the block."""
    with pytest.MonkeyPatch.context() as patch, mounted("bpf", folder, "-t", "bpf") as place:
        patch.setattr(pins, "BPFFS", place)
        yield place
