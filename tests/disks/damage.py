"""Damage a sound disk, and look what comes of it."""

from __future__ import annotations

import resource
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from hypothesis import strategies as st

from tests.disks.seals import Seal, no_checksums
from tests.disks.shelf import MIB, Shelf
from tests.noise import noise
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import DiskError

Damage = tuple[int, bytes | None]
"""Where in the file (from its end if negative), and what; None flips one bit."""
Field = tuple[int, int]
"""Where a number lies in the file, and how many bytes it has."""
_HOLE = bytes(UNIT)


@dataclass(frozen=True)
class Specimen:
    """What to know of a format to damage a disk in it.

    Attributes:
        size: of a disk that shows all structures, in bytes.
        order: of the bytes of a number.
        fields: numbers in the structures, by their names.
        damages: where it hurts.
        structures: bytes at the file's start in which all structures lie.
        edges: where they begin and end.
        unread: bytes at the file's end that nobody misses.
        beginnings: of files that begin like such a disk; the first is the format's mark.
        seal: makes checksums right again.
    """

    disk_format: str
    size: int
    order: Literal["little", "big"]
    fields: dict[str, Field]
    damages: st.SearchStrategy[Damage]
    structures: int
    edges: tuple[int, ...]
    beginnings: tuple[bytes, ...]
    unread: int = 0
    seal: Seal = no_checksums


class Sound:
    """A sound child with data at both of its ends, over a sound base.

    Attributes:
        data: the child's file.
        base: what it is made on.
    """

    def __init__(self, specimen: Specimen, folder: Path) -> None:
        self.specimen = specimen
        self.format = specimen.disk_format
        end = (specimen.size - 1) // UNIT * UNIT
        shelf = Shelf(folder, specimen.size, self.format)
        self.base = shelf.layer((0, noise(3 * UNIT, 1)))
        self.data = shelf.layer(
            (UNIT, noise(UNIT, 2)), (end, noise(specimen.size - end, 3))
        ).read_bytes()
        self._path = folder / f"damaged.{self.format}"

    def __repr__(self) -> str:
        return "the sound child"  # Hypothesis would print all its bytes

    def number(self, field: str, value: int) -> Damage:
        """Another value of one of the fields."""
        at, size = self.specimen.fields[field]
        return at, value.to_bytes(size, self.specimen.order)

    def bytes_with(self, *damages: Damage, sealed: bool = True) -> bytearray:
        """The child's file, damaged; if `sealed`, with checksums that say that all is well."""
        data = bytearray(self.data)
        for offset, what in damages:
            at = offset % len(data)
            if what is None:
                data[at] ^= 1 << offset % 8
            else:
                data[at : at + len(what)] = what
        if sealed:
            self.specimen.seal(data)
        return data

    def damaged(self, *damages: Damage, sealed: bool = True) -> Path:
        """The same as a file, beside the base."""
        return self.file(self.bytes_with(*damages, sealed=sealed))

    def cut(self, length: int) -> Path:
        """The start of the child's file."""
        return self.file(self.data[:length])

    def file(self, data: bytes | bytearray) -> Path:
        """These bytes as the damaged file; zeros are holes, as in the files that we write."""
        with self._path.open("wb") as file:
            file.truncate(len(data))
            for at in range(0, len(data), len(_HOLE)):
                piece = data[at : at + len(_HOLE)]
                if piece != _HOLE:
                    file.seek(at)
                    file.write(piece)
        return self._path

    def seen(self, path: Path) -> dict[int, bytes]:
        """What our chain reads here and there, whatever size it has; raises DiskError."""
        found = {}
        with Chain.open(path, DiskFormat(self.format)) as chain:
            ends = (self.specimen.size - UNIT, chain.size - UNIT, chain.size - 512)
            for offset in {0, UNIT, 2 * MIB, *ends}:
                if 0 <= offset < chain.size:
                    data = bytearray(min(UNIT, chain.size - offset))
                    chain.readinto(offset, memoryview(data))
                    found[offset] = bytes(data)
        return found

    def seen_with(self, *damages: Damage, sealed: bool = True) -> dict[int, bytes]:
        """The same of the damaged child."""
        return self.seen(self.damaged(*damages, sealed=sealed))


def outcome(call: Callable[[], object]) -> DiskError | None:
    """The refusal, if it is one that tells the user what to do; any other error is raised."""
    try:
        call()
        return None
    except DiskError as error:
        refusal = error
    assert refusal.title
    assert refusal.advice
    return refusal


@contextmanager
def little_memory(peak: int = 64 * MIB) -> Iterator[None]:
    """Fail if Python and numpy take more than `peak` bytes in the `with`."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()


@contextmanager
def no_more_memory(room: int = 64 * MIB) -> Iterator[None]:
    """Where something takes memory by what a field claims, MemoryError says it.

    For what is tried hundreds of times: what the heap has free is not counted, but to trace each
    allocation takes half as long as all else.
    """
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


@contextmanager
def few_calls(most: int) -> Iterator[None]:
    """Fail if Python calls more than `most` functions in the `with`.

    It is a measure of work that, unlike a time, is the same on every machine and on a busy one.
    """
    called = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal called
        called += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
    assert called <= most
