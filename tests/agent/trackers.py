"""Trackers of a test's own, which neither other tests nor the user see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sources.loops import mounted
from vdbackup.agent import marking, pins
from vdbackup.agent.changes import BLOCK

MIB = 1 << 20


@contextmanager
def own_trackers(folder: Path, longest: int | None = None) -> Iterator[Path]:
    """A bpf file system, mounted there; all trackers in it end with the block.

    Args:
        folder: where it is mounted.
        longest: bytes of the longest request that they mark, as many as the disks of the test have.
            A program for the 4 GiB that the kernel may ask for is checked by it for 0.15 s, each of
            its three copies. None: those are marked.
    """
    with pytest.MonkeyPatch.context() as patch, mounted("bpf", folder, "-t", "bpf") as place:
        patch.setattr(pins, "BPFFS", place)
        if longest is not None:
            patch.setattr(marking, "_MAX_WORDS", longest // (64 * BLOCK))
        yield place
