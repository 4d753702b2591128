"""A network share as bad as they come: `python -m tests.sources.file_sets.share FOLDER WHERE`.

It shows FOLDER, read-only, through FUSE. Numbers of files are given in the order in which they are
asked for, anew with each mount; times are whole seconds, and a file's time of change is that of its
content, unless a third argument "changes" wants its own. Ends when it is unmounted.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.sources.loops import unmount

SECOND = 1_000_000_000


@contextmanager
def shared(folder: Path, where: Path, *, changes: bool = False) -> Iterator[Path]:
    """The folder as such a share shows it; `changes`: with times of change of their own."""
    where.mkdir(exist_ok=True)
    command = [sys.executable, "-m", __name__, str(folder), str(where)]
    command += ["changes"] * changes
    with subprocess.Popen(command) as child:
        until = time.monotonic() + 60
        while not os.path.ismount(where):
            assert child.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        try:
            yield where
        finally:
            unmount(where)


def main() -> None:
    """Show it."""
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    import mfusepy

    below = os.fsencode(sys.argv[1])
    has_changes = "changes" in sys.argv[3:]
    numbers: dict[int, int] = {}

    class Share(mfusepy.Operations):  # type: ignore[misc]
        use_ns = True

        def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
            try:
                found = os.lstat(below + os.fsencode(path))
            except OSError as error:
                raise mfusepy.FuseOSError(error.errno or errno.EIO) from error
            moment = found.st_mtime_ns // SECOND * SECOND
            changed = found.st_ctime_ns // SECOND * SECOND if has_changes else moment
            return {
                "st_mode": found.st_mode,
                "st_nlink": found.st_nlink,
                "st_size": found.st_size,
                "st_uid": found.st_uid,
                "st_gid": found.st_gid,
                "st_ino": numbers.setdefault(found.st_ino, len(numbers) + 2),
                "st_mtime": moment,
                "st_ctime": changed,
                "st_atime": moment,
            }

        def readdir(self, path: str, fh: Any) -> list[tuple[str, None, int]]:
            names = map(os.fsdecode, os.listdir(below + os.fsencode(path)))
            return [(name, None, 0) for name in (".", "..", *names)]

        def open(self, path: str, flags: int) -> int:
            return os.open(below + os.fsencode(path), os.O_RDONLY)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def readlink(self, path: str) -> str:
            return os.fsdecode(os.readlink(below + os.fsencode(path)))

    mfusepy.FUSE(
        Share(), sys.argv[2], foreground=True, nothreads=True, ro=True, use_ino=True,
        attr_timeout=0, entry_timeout=0,
    )  # fmt: skip


if __name__ == "__main__":
    main()
