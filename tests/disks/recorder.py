"""What a power cut can leave of a file: what was written to it, in order, and any part of it."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.faults import one_by_one
from vdbackup.disks.host_file import HostFile

SECTOR = 512

Written = tuple[int, bytes | None]
"""Where in the file, and what; nothing where it was made as long as that, None where as short."""


class Recorder:
    """What was written to one file.

    Attributes:
        batches: of writes that were made durable together; the last was never made durable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches: list[list[Written]] = [[]]
        self._start = path.with_name(f"{path.name}.before")
        _copy(path, self._start)

    def whole_writes(self, tear: int | None = None) -> Iterator[None]:
        """Let the file be what a power cut can leave of it, if it leaves writes whole or not.

        All is there that was durable; of what was not: nothing, all, the first few, one, or all
        but one. With `tear`, one of them also stops after a sector, or after so many bytes.
        """
        for durable, batch in self._cuts():
            numbers = range(len(batch))
            some = [batch[:n] for n in range(len(batch) + 1)]
            some += [[batch[n]] for n in numbers if n]
            some += [[*batch[:n], *batch[n + 1 :]] for n in numbers[:-1]]
            if tear:
                some += [
                    [(at, what[:length])]
                    for at, what in batch
                    for length in sorted({tear, SECTOR})
                    if what and length < len(what)
                ]
            for writes in some:
                self._lay(durable, writes)
                yield

    def any_sectors(self, seed: int) -> Iterator[None]:
        """The same, if of what was not durable any sectors may be there and any not."""
        chance = random.Random(seed)
        for durable, batch in self._cuts():
            sectors: list[Written] = [
                (offset + at, data[at : at + SECTOR] if data is not None else None)
                for offset, data in batch
                for at in range(0, max(1, len(data or b"")), SECTOR)
            ]
            for part in (0.2, 0.7):
                self._lay(durable, [each for each in sectors if chance.random() < part])
                yield

    def _cuts(self) -> Iterator[tuple[list[Written], list[Written]]]:
        """What is durable for certain, and what was written since."""
        durable: list[Written] = []
        for batch in self.batches:
            yield durable, batch
            durable = durable + batch

    def _lay(self, durable: list[Written], writes: list[Written]) -> None:
        _copy(self._start, self.path)
        with self.path.open("r+b") as file:
            for offset, what in durable + writes:
                end = file.seek(0, os.SEEK_END)
                if what is None:
                    file.truncate(min(end, offset))
                    continue
                file.truncate(max(end, offset))
                file.seek(offset)
                file.write(what)


@contextmanager
def recorded(path: Path) -> Iterator[Recorder]:
    """Note what is written to that file in the `with`."""
    recorder = Recorder(path)
    write, grow, cut, sync = HostFile.write, HostFile.grow, HostFile.cut, HostFile.sync

    def noted_write(file: HostFile, offset: int, view: memoryview) -> None:
        if file.path == path:
            recorder.batches[-1].append((offset, bytes(view)))
        write(file, offset, view)

    def noted_grow(file: HostFile, size: int) -> None:
        if file.path == path:
            recorder.batches[-1].append((size, b""))
        grow(file, size)

    def noted_cut(file: HostFile, size: int) -> None:
        if file.path == path:
            recorder.batches[-1].append((size, None))
        cut(file, size)

    def noted_sync(file: HostFile) -> None:
        if file.path == path:
            recorder.batches.append([])
        sync(file)

    with pytest.MonkeyPatch.context() as patch:
        one_by_one(patch)
        patch.setattr(HostFile, "write", noted_write)
        patch.setattr(HostFile, "grow", noted_grow)
        patch.setattr(HostFile, "cut", noted_cut)
        patch.setattr(HostFile, "sync", noted_sync)
        yield recorder


def _copy(source: Path, target: Path) -> None:
    """Holes stay holes: files of some GiB are recorded."""
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
