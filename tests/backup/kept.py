"""A folder as it was at some moment, to be brought back, or to be had elsewhere: in memory."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from tests.backup import sparse

Contents = dict[sparse.Contents, sparse.Contents]
"""What there is of files, each to itself: the same is not kept again."""


@dataclass(frozen=True)
class _Entry:
    """What lies at a path below the folder; of a folder `data` is None."""

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

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._folder = folder
        paths = (folder, *sorted(folder.rglob("*")))
        self._entries = [_entry(path, folder, contents) for path in paths]

    def bring_back(self) -> None:
        """Make the folder anew, as it was."""
        self.bring_to(self._folder)

    def bring_to(self, folder: Path) -> None:
        """Make it in a place; what is there goes."""
        if folder.exists():
            shutil.rmtree(folder)
        for each in self._entries:
            if each.data is None:
                (folder / each.path).mkdir()
            else:
                sparse.write(folder / each.path, each.data)
        for each in reversed(self._entries):  # what lies in a folder changes the folder's time
            os.chmod(folder / each.path, each.mode)
            os.utime(folder / each.path, ns=each.times)


def _entry(path: Path, folder: Path, contents: Contents) -> _Entry:
    status = path.stat()
    data = None if path.is_dir() else sparse.contents(path)
    if data is not None:
        data = contents.setdefault(data, data)
    times = status.st_atime_ns, status.st_mtime_ns
    return _Entry(path.relative_to(folder), data, stat.S_IMODE(status.st_mode), times)
