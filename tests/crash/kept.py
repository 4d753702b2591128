"""A folder as it was at some moment, to be brought back: in memory, the same bytes once."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.backup import sparse
from tests.crash.faults import watched

SOME = 3
each_or_some = pytest.mark.parametrize(
    "every",
    [pytest.param(SOME, id="some"), pytest.param(1, id="each", marks=pytest.mark.long)],
)
"""At how many changes one is tried: of so many one in the short form, others in the next case."""

_Kept = dict[sparse.Contents, sparse.Contents]
"""What there is of files, each to itself: the same is not kept again."""


@dataclass(frozen=True)
class _Entry:
    """What lies at a path; of a folder `data` is None."""

    path: Path
    data: sparse.Contents | None
    mode: int
    times: tuple[int, int]


class Kept:
    """Of a folder all files, with their modes and times.

    Args:
        folder: to keep.
        contents: of the files that others have kept, each to itself: what is there is not kept
            again.
    """

    def __init__(self, folder: Path, contents: _Kept) -> None:
        self._folder = folder
        self._entries = [_entry(path, contents) for path in (folder, *sorted(folder.rglob("*")))]

    def bring_back(self) -> None:
        """Make the folder anew, as it was."""
        shutil.rmtree(self._folder)
        for each in self._entries:
            if each.data is None:
                each.path.mkdir()
            else:
                sparse.write(each.path, each.data)
        for each in reversed(self._entries):  # what lies in a folder changes the folder's time
            os.chmod(each.path, each.mode)
            os.utime(each.path, ns=each.times)


def ended_before_each_change(folder: Path, act: Callable[[], object]) -> list[Kept]:
    """The folder as it is where the process ends before a change that `act` makes.

    It is done once, to its end, and the folder is brought back. Before the first change it is as it
    was; after an fsync, which changes nothing that is read, as before it: what a power cut takes
    away that no fsync has covered, test_power_cut.py tries.
    """
    contents: _Kept = {}
    moments = [Kept(folder, contents)]

    def keep(before: str) -> None:
        if before not in ("", "fsync"):
            moments.append(Kept(folder, contents))

    with watched(keep) as faults:
        act()
    assert {"fsync", "rename"} <= set(faults.calls)
    moments[0].bring_back()
    return moments


def _entry(path: Path, contents: _Kept) -> _Entry:
    status = path.stat()
    data = None if path.is_dir() else sparse.contents(path)
    if data is not None:
        data = contents.setdefault(data, data)
    times = status.st_atime_ns, status.st_mtime_ns
    return _Entry(path, data, stat.S_IMODE(status.st_mode), times)
