"""A source that is a file or a block device: a disk image, raw or virtual with its parents."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

from vdbackup.agent.stacking import is_mounted_writable, lies_on, mounts_of
from vdbackup.disks.chain import Chain
from vdbackup.disks.descriptors import open_to_read
from vdbackup.disks.disk import UNIT
from vdbackup.disks.extents import Ranges
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import (
    UNREADABLE,
    DamagedSource,
    DiskFormatError,
    SourceError,
    SourceLost,
    Unreadable,
)
from vdbackup.sources.changes import Changes
from vdbackup.sources.devices import lasting_name, medium_of
from vdbackup.sources.facts import facts_at, with_written
from vdbackup.sources.identity import Facts
from vdbackup.sources.live_rounds import LiveRounds
from vdbackup.sources.moment import Follow
from vdbackup.sources.reference import SourceRef
from vdbackup.sources.source import OneReading, Rounds
from vdbackup.sources.written_ids import end_of_partitions
from vdbackup.translation import grouped, tr
from vdbackup.volumes.cut_off import cut_off


class DiskSource:
    """A Source (source.py) that is read through a chain of files, or from a device.

    Attributes:
        path: the image or device, no link.
        mounted: where it is mounted, if it is.
        chain: the disk with its parents.
        unit: bytes in which a full is kept: what changes of a disk lies together for the most part.
    """

    def __init__(
        self,
        source_id: str,
        path: Path,
        chain: Chain,
        sector_size: int,
        said: str | None = None,
        doubt: str = "",
    ) -> None:
        self.id = source_id
        self.name = path.stem
        self.path = path.resolve()
        self._link = link_to(self.path, path)
        self.size, self.unit = chain.size, UNIT
        self.sector_size = sector_size
        self.mounted = mounts_of(path)
        self.chain = chain
        self.said = said
        self._doubt = doubt
        self._undo = ExitStack()
        self._undo.callback(chain.close)
        self._changes = Changes(self.path, self._host_files)
        self._lengths = {file: _length(file) for file in self.files}
        self._media = {file: medium_of(file) for file in self.files if file.is_block_device()}
        for file in self._host_files:
            file.leave_cache()  # a disk is larger than memory, and is read once

    @property
    def ref(self) -> SourceRef:
        """By what it is found again."""
        return SourceRef.of_path(self._link or lasting_name(self.path))

    @property
    def title(self) -> str:
        """What sentences call it."""
        return str(self.path)

    @property
    def holes_are_known(self) -> bool:
        """Whether `data_ranges` leaves out what is zeros: a device shows no holes."""
        return not self.path.is_block_device()

    def facts(self) -> Facts:
        """What tells this source from others, as it is now; raises SourceError."""
        found = facts_at(self.path, self.chain.layers[-1].info.disk_id)
        if self._link and str(self._link) not in found.paths:
            found = replace(found, links=(str(self._link),))
        return with_written(found, self.readinto, self.size, self.sector_size)

    def holds(self, folder: Path) -> bool:
        """Whether a folder is stored on it."""
        return lies_on(folder, self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        """What the source is read from: the image, its extents and its parents, or the device."""
        return tuple(file.path for file in self._host_files)

    @property
    def _host_files(self) -> list[HostFile]:
        return [file for layer in self.chain.layers for file in layer.host_files]

    def data_ranges(self) -> Ranges:
        """What may hold anything but zeros; holes of an image are left out."""
        return self.chain.map.data_ranges()

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the source's bytes from `offset` on.

        Raises:
            Unreadable: the medium gives a read error somewhere in there. SourceError: all else.
        """
        try:
            self.chain.readinto(offset, view)
        except DiskFormatError as error:
            if not self._raw:
                raise DamagedSource(error.title, tr("Restore the file from a copy.")) from error
            self.check_present()
            raise _shorter(self.path) from error
        except OSError as error:
            kind = Unreadable if error.errno in UNREADABLE else SourceLost
            raise kind(
                tr(
                    "{path} cannot be read at byte {offset}: {reason}.",
                    path=self.path,
                    offset=offset,
                    reason=error.strerror,
                ),
                tr("Check the disk (its kernel log, its SMART values)."),
            ) from error

    def check_present(self) -> None:
        """Raise SourceError unless all of the source is still there, the same, as long as it was.

        A card reader, or a disk that was plugged in again, has its name for whatever is in it.
        """
        for file, length in self._lengths.items():
            try:
                now = _length(file)
            except OSError as error:
                raise SourceLost(
                    tr(
                        "{file} disappeared while it was read: {reason}.",
                        file=file,
                        reason=error.strerror,
                    ),
                    tr("Connect it again, then start the backup again."),
                ) from error
            if now < length:
                raise _shorter(file)
            if file in self._media and self._media[file] != medium_of(file):
                raise SourceLost(
                    tr(
                        "{file} is another disk, or has another medium in it, than when the "
                        "backup began.",
                        file=file,
                    ),
                    tr("Put the first one back, then start the backup again."),
                )

    def rounds(self, follow: Follow | None = None) -> Rounds:
        """What makes all that is read of it one moment's, as far as can be."""
        if self.path.is_block_device() and self._raw and is_mounted_writable(self.path):
            return LiveRounds(self, follow)
        return OneReading(self)

    def defects(self) -> tuple[str, ...]:
        """What the user must know of it whenever it is read, a sentence each."""
        return tuple(
            filter(
                None, (self._doubt, self._cut_off(), *self._volumes_cut_off(), *self.chain.doubts())
            )
        )

    def trouble(self) -> tuple[str, ...]:
        """What the user must know of the copy that was just read, a sentence each."""
        return (*self.defects(), *self._changes.sentences())

    def writers(self) -> tuple[str, ...]:
        """Programs that have it open for writing past its file systems, a sentence each."""
        return self._changes.writers()

    @property
    def exact_size(self) -> int | None:
        """Bytes of a raw file that ends within a sector; None of all else."""
        length = sum(self._lengths.values())
        return length if self._raw and length < self.size else None

    @property
    def unread(self) -> tuple[str, ...]:
        """Snapshots inside its files."""
        return tuple(self.chain.unread())

    @property
    def remark(self) -> str:
        """What there is to say of a raw file that ends within a sector; "" of all else."""
        if self.exact_size is None:
            return ""
        return tr(
            "{path} has {exact_size} bytes, which are no whole sectors: its backups have "
            "{size} bytes, the last {size_2} of them zeros; a raw file that is restored from "
            "them has as many as it.",
            path=self.path,
            exact_size=grouped(self.exact_size),
            size=grouped(self.size),
            size_2=self.size - self.exact_size,
        )

    def _cut_off(self) -> str:
        """What there is to say of a raw file that is shorter than its partition table says.

        Of a device, or a virtual disk, it is not said: where it has larger sectors than its table
        counts in, it would seem to be too short. A raw file's are 512 bytes.
        """
        if not self._raw or self.path.is_block_device():
            return ""
        length = sum(self._lengths.values())
        end = end_of_partitions(self.readinto, self.size, self.sector_size)
        if end <= length:
            return ""
        return tr(
            "{path} ends before its partitions do: it has {length} bytes, and its partition "
            "table goes to byte {end}. What is missing there is in no backup of it.",
            path=self.path,
            length=grouped(length),
            end=grouped(end),
        )

    def _volumes_cut_off(self) -> Iterator[str]:
        """What there is to say of file systems in a file that are longer than what is there.

        Of a device the kernel says it, and reading more of one that fails takes its time.
        """
        if self.path.is_block_device():
            return
        for each in cut_off(self):
            on = tr(" on partition {place}", place=each.place.number) if each.place.number else ""
            if each.place.group_and_name:
                on = tr(" on {group_and_name}", group_and_name=each.place.group_and_name)
            yield tr(
                "The {name}{on} of {path} is cut off: it says that it has {says} bytes, and there "
                "are {has}. What is missing there is in no backup of it.",
                name=each.name,
                on=on,
                path=self.path,
                says=grouped(each.says),
                has=grouped(each.has),
            )

    @property
    def _raw(self) -> bool:
        return self.chain.layers[-1].info.format == DiskFormat.RAW

    def take(self, undo: ExitStack) -> None:
        """What it was opened with ends with it, after its files are closed."""
        self._undo = undo
        self._undo.callback(self.chain.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


def link_to(target: Path, given: Path) -> Path | None:
    """The name by which a file or device was given, where a link in it leads there; else None.

    Whoever turns the link means what it leads to then. None of those in /proc lasts.
    """
    name = Path(os.path.normpath(given.absolute()))
    if name == target or Path(os.path.realpath(name.parent)).is_relative_to("/proc"):
        return None
    leads_there = os.path.exists(name) and name.samefile(target)  # not so where ".." follows a link
    return name if leads_there else None


def _length(path: Path) -> int:
    """Of an image or a device, in bytes; a device that was unplugged has none, or none left."""
    with open(open_to_read(path), "rb", buffering=0) as file:
        return file.seek(0, os.SEEK_END)


def _shorter(path: Path) -> SourceError:
    return SourceLost(
        tr("{path} became shorter while it was read.", path=path),
        tr("Check that it is connected, and back it up while nothing resizes it."),
    )
