"""What is mounted from a device and may write to it: how all of it is frozen, and where it lies.

A file system in a file of another one (a loop device) writes to that one, so it is frozen before
it; the root, which all that runs here may need, comes last.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vdbackup.agent import stacking
from vdbackup.agent.block_devices import SECTOR, SYS_BLOCK, node_of
from vdbackup.agent.freezing import FileSystem, Freeze, frozen
from vdbackup.agent.stacking import Swap, number_of, numbers_on
from vdbackup.agent.stretches import Stretch, between, joined
from vdbackup.agent.writeback import sync_file_system, write_out_caches
from vdbackup.errors import NotFrozen
from vdbackup.translation import tr

_UNMOUNTED_WITHIN, _BETWEEN = 30.0, 0.02
"""Seconds in which what is unmounted has written out all that it had, and those between looks."""


@dataclass(frozen=True)
class Mounted:
    """A file system that is mounted, and may be written to.

    Attributes:
        kind: "ext4".
        mounts: where it is mounted, by the id of each mount: at least one.
        numbers: of the devices that it says it lies on.
        depth: how many file systems it lies on, one in a file of the next, that are on the device.
    """

    kind: str
    mounts: dict[int, str]
    numbers: frozenset[str]
    depth: int

    @property
    def name(self) -> str:
        """Where it is mounted, for sentences."""
        return next(iter(self.mounts.values()))

    @property
    def is_root(self) -> bool:
        """Whether it is what this process has as its root."""
        return "/" in self.mounts.values()


def mounted_on(path: Path) -> list[Mounted]:
    """The file systems that may write to a device or image, in the order in which to freeze."""
    found: dict[str, Mounted] = {}
    numbers, depth = numbers_on(path), 0
    while numbers:
        level = _mounted_from(numbers, depth)
        new = {number: each for number, each in level.items() if number not in found}
        found |= new
        numbers, depth = stacking.loops_on(set(new)), depth + 1
    return sorted(found.values(), key=lambda each: (-each.depth, each.is_root))


def _mounted_from(numbers: set[str], depth: int) -> dict[str, Mounted]:
    """By the number that each has as a file system; what is read-only is left out."""
    found: dict[str, Mounted] = {}
    for mount in stacking.mounts():
        if mount.read_only or numbers.isdisjoint(mount.numbers):
            continue
        before = found.get(mount.number)
        mounts = {**(before.mounts if before else {}), mount.id: mount.where}
        found[mount.number] = Mounted(mount.kind, mounts, frozenset(mount.numbers), depth)
    return found


@contextmanager
def opened(mounted: Mounted) -> Iterator[FileSystem]:
    """Open one where it is mounted; raises NotFrozen where nobody gets there."""
    with ExitStack() as stack:
        for mount, where in mounted.mounts.items():
            with suppress(OSError):
                fd = os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                if _mount_of(fd) == mount:  # and not one that lies over it
                    yield FileSystem(where, fd)
                    return
        raise NotFrozen(
            tr(
                "The file system at {mounted} cannot be reached: another one may be mounted over "
                "it.",
                mounted=mounted.name,
            ),
            tr("Unmount that, then start the backup again."),
        )


def _mount_of(fd: int) -> int:
    """By which mount a file was opened (proc(5), fdinfo); -1 where it is not said."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("mnt_id:")), -1)


class Together:
    """All that is mounted from a device and may write to it, frozen together again and again.

    It is open only where it is about to be frozen (`joined`): what is open cannot be unmounted.
    What is unmounted between two freezes has written out all that it had.

    Attributes:
        left_out: what cannot be frozen, or is of no account, a few words each.
        outside: where on the device none of them lies that is frozen: (offset, length) in bytes,
            ascending and apart.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Look whether they can be opened; raises NotFrozen where they cannot.

        Args:
            path: of the device.
            size: in bytes.
        """
        self._path, self._size = path, size
        self._open: dict[frozenset[str], tuple[Mounted, FileSystem]] = {}
        self._left: set[frozenset[str]] = set()  # of these, what cannot be frozen
        self._was_frozen = False
        with self.joined():
            pass

    @contextmanager
    def joined(self) -> Iterator[None]:
        """What is mounted now is open for the length of the block, and can be frozen in it.

        Raises NotFrozen where it cannot be opened, or something else may write meanwhile.
        """
        now = mounted_on(self._path)
        gone = self._open.keys() - self._left - {each.numbers for each in now}
        for numbers in gone:
            _wait_for_end(self._open[numbers][0])
        with ExitStack() as stack:
            self._open = {each.numbers: (each, stack.enter_context(opened(each))) for each in now}
            self._look()
            yield

    def is_all(self) -> bool:
        """Whether nothing that may write to the device has been mounted since."""
        return all(each.numbers in self._open for each in mounted_on(self._path))

    def _look(self) -> None:
        swap = swap_on(self._path)
        known = {number for numbers in self._open.keys() - self._left for number in numbers}
        known |= {each.number for each in swap if each.number}
        self.outside = between(stretches(self._path, known), self._size)
        left = [self._open[numbers][0] for numbers in self._open if numbers in self._left]
        self.left_out = (
            *(
                tr("{which} ({kind}), copied until it was quiet", which=each.name, kind=each.kind)
                for each in left
            ),
            *(tr("swap ({which})", which=each.path) for each in swap),
        )

    @property
    def swap(self) -> list[Stretch]:
        """Where the kernel puts memory now, in partitions: (offset, length) in bytes."""
        return stretches(self._path, {each.number for each in swap_on(self._path) if each.number})

    @property
    def is_any(self) -> bool:
        """Whether something can be frozen, or was until it was unmounted."""
        return self._was_frozen or len(self._open) > len(self._left & self._open.keys())

    def leave(self, where: str) -> None:
        """Do not freeze what is mounted there: it cannot be."""
        self._left |= {numbers for numbers, each in self._open.items() if each[1].name == where}
        self._look()

    def sync(self) -> None:
        """Have all write out what they hold back, so that the freeze is short; raises OSError."""
        for _, each in self._open.values():
            sync_file_system(each.descriptor)
        write_out_caches(self._path)

    def to_freeze(self) -> dict[frozenset[str], tuple[Mounted, FileSystem]]:
        """What is frozen, by the numbers of the devices that each lies on; it is `joined`."""
        return {key: each for key, each in self._open.items() if key not in self._left}

    def note_frozen(self) -> None:
        """A freeze of them has come to its end."""
        self._was_frozen |= bool(self.to_freeze())


@contextmanager
def frozen_together(devices: Sequence[Together]) -> Iterator[Freeze]:
    """Freeze all that is mounted from these devices, each once, for a moment (freezing.py).

    Of one that lies on several, or in a file of what is on another, the deepest place counts.
    """
    found: dict[frozenset[str], tuple[Mounted, FileSystem]] = {}
    for device in devices:
        for key, each in device.to_freeze().items():
            if key not in found or found[key][0].depth < each[0].depth:
                found[key] = each
    order = sorted(found.values(), key=lambda each: (-each[0].depth, each[0].is_root))
    with frozen([file_system for _, file_system in order]) as freeze:
        yield freeze
    for device in devices:
        device.note_frozen()


def _wait_for_end(mounted: Mounted) -> None:
    """Of what is mounted no more, and may be writing still: until its device is free.

    Raises NotFrozen where somebody uses it: `umount --lazy`, or a container that has it mounted.
    """
    until = time.monotonic() + _UNMOUNTED_WITHIN
    while _is_used(mounted):
        if time.monotonic() > until:
            raise NotFrozen(
                tr(
                    "The file system at {mounted} is mounted there no more, but still in use.",
                    mounted=mounted.name,
                ),
                tr("End the programs that use it, then start the backup again."),
            )
        time.sleep(_BETWEEN)


def _is_used(mounted: Mounted) -> bool:
    """Whether some file system has its devices to itself; not if it can only be read from now."""
    if any(not mounted.numbers.isdisjoint(mount.numbers) for mount in stacking.mounts()):
        return False
    for node in filter(None, map(node_of, mounted.numbers)):
        try:
            os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:  # any other: it is gone
            if error.errno == errno.EBUSY:
                return True
    return False


def swap_on(path: Path) -> list[Swap]:
    """What of a device or image the kernel swaps to, now."""
    numbers = numbers_on(path)
    return [each for each in stacking.swaps() if not numbers.isdisjoint(each.numbers)]


def stretches(path: Path, numbers: Iterable[str]) -> list[Stretch]:
    """Where on a device others lie that are its partitions, or made of some; whole ones of those.

    Nothing of what is not known to lie on it.
    """
    own = number_of(str(path))
    return joined(place for number in numbers for place in _stretches(number, own))


def _stretches(number: str, on: str | None) -> list[Stretch]:
    place = (SYS_BLOCK / number).resolve()
    if number == on:
        return [(0, _number(place / "size") * SECTOR)]
    if (place / "partition").exists() and _text(place.parent / "dev") == on:
        return [(_number(place / "start") * SECTOR, _number(place / "size") * SECTOR)]
    below = [_text(file) for file in place.glob("slaves/*/dev")]
    return [stretch for each in below for stretch in _stretches(each, on)]


def _text(file: Path) -> str:
    return file.read_text().strip()


def _number(file: Path) -> int:
    return int(_text(file))
