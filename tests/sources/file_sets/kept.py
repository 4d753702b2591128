"""A disk of chosen files as its points are, one after the other: an image, as captures make it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.sources.loops import loop, mounted
from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.jobs import Task
from vdbackup.sources.file_sets.blank import START
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.source import FileSetSource
from vdbackup.sources.moment import Follow


class Kept:
    """The image of a set, which `keep` brings up to date.

    Attributes:
        written: bytes that were written the last time, whole blocks.
        trouble: what there was to say then.
        remark: what else there was.
    """

    def __init__(self, image: Path, *paths: Path, **choice: Any) -> None:
        self.image = image
        self.choice = Choice.of(list(map(str, paths)), choice.pop("exclude", ()), **choice)
        self.written = 0
        self.trouble: tuple[str, ...] = ()
        self.remark = ""

    def keep(self, task: Task | None = None, **options: Any) -> None:
        """What a backup does; e2fsck finds nothing to say about it."""
        there = self.image.exists()
        size = self.image.stat().st_size if there else None
        before = (lambda: Chain.open(self.image, DiskFormat.RAW)) if there else None
        follow = Follow("a test", None, "", before, task or Task())
        with FileSetSource(self.choice, size, **options) as source, source.rounds(follow) as rounds:
            ranges = source.data_ranges()
            assert (rounds.changed is None) == (not there)
            pieces = []
            for offset, length in ranges.tolist():
                view = memoryview(bytearray(length))
                rounds.readinto(offset, view)
                pieces.append((offset, view))
            self.trouble, self.remark = rounds.outcome().trouble, source.remark
        with self.image.open("r+b" if there else "wb") as file:
            file.truncate(source.size)
            for offset, view in pieces:
                file.seek(offset)
                file.write(view)
        self.written = sum(len(view) for _, view in pieces)
        check(self.image)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Where the kernel shows the folder that was chosen."""
        size = self.image.stat().st_size - 2 * START
        where = (f"--offset={START}", f"--sizelimit={size}", "--read-only")
        place = self.image.with_name("mounted")
        # mount itself takes a loop device that is just going away, with what that has cached
        with loop(self.image, *where) as device, mounted(device, place, "-o", "ro") as folder:
            yield Path(f"{folder}{self.choice.paths[0]}")


def check(image: Path) -> None:
    """Fail unless e2fsck finds nothing wrong: its status says so, not its last line."""
    done = subprocess.run(
        ["e2fsck", "-fn", f"{image}?offset={START}"], capture_output=True, text=True, check=False,
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
