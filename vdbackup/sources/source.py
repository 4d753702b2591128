"""A source: a disk image, raw or virtual with its parents, or a block device; read only."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from vdbackup.disks.chain import Chain
from vdbackup.disks.contents import decide
from vdbackup.disks.device_reads import sector_size_of
from vdbackup.disks.disk import SECTOR
from vdbackup.disks.extents import Ranges
from vdbackup.disks.host_file import UNREADABLE, HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import DiskFormatError, Remedy, SourceError, SourceNotFound, Unreadable
from vdbackup.sources.changes import Changes
from vdbackup.sources.devices import device_id
from vdbackup.sources.stacking import mounts_of
from vdbackup.sources.writeback import write_out
from vdbackup.sources.written_ids import end_of_partitions


class Source:
    """What is backed up. Use it as a context manager.

    Attributes:
        id: which source this is; the same as long as it is the same disk.
        name: what a person would call it.
        path: the image or device.
        size: in bytes, whole sectors.
        sector_size: that the disk itself has, in bytes.
        mounted: where it is mounted, if it is.
        chain: the disk with its parents.
        said: what the user says or said that it is, "raw" or a format; None where nobody had to.
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
        self.size = chain.size
        self.sector_size = sector_size
        self.mounted = mounts_of(path)
        self.chain = chain
        self.said = said
        self._doubt = doubt
        self._changes = Changes(self.path, self._host_files)
        self._lengths = {file: _length(file) for file in self.files}

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
                raise SourceError(error.title, "Restore the file from a copy.") from error
            self.check_present()
            raise _shorter(self.path) from error
        except OSError as error:
            kind = Unreadable if error.errno in UNREADABLE else SourceError
            raise kind(
                f"{self.path} cannot be read at byte {offset}: {error.strerror}.",
                "Check the disk (its kernel log, its SMART values).",
            ) from error

    def check_present(self) -> None:
        """Raise SourceError unless all of the source is still there, as long as it was."""
        for file, length in self._lengths.items():
            try:
                now = _length(file)
            except OSError as error:
                raise SourceError(
                    f"{file} disappeared while it was read: {error.strerror}.",
                    "Connect it again, then start the backup again.",
                ) from error
            if now < length:
                raise _shorter(file)

    def trouble(self) -> tuple[str, ...]:
        """What the user must know of the copy that was just read, a sentence each."""
        cut_off = self._cut_off()
        unclean = [
            f"{layer.path} {layer.info.unclean}."
            for layer in self.chain.layers
            if layer.info.unclean
        ]
        return tuple(filter(None, (self._doubt, cut_off, *unclean, *self._changes.sentences())))

    @property
    def exact_size(self) -> int | None:
        """Bytes of a raw file that ends within a sector; None of all else."""
        length = sum(self._lengths.values())
        return length if self._raw and length < self.size else None

    @property
    def filled_up(self) -> str:
        """What there is to say of a raw file that ends within a sector; "" of all else."""
        if self.exact_size is None:
            return ""
        return (
            f"{self.path} has {self.exact_size:,} bytes, which are no whole sectors: its backups "
            f"have {self.size:,} bytes, the last {self.size - self.exact_size} of them zeros; a "
            "raw file that is restored from them has as many as it."
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
        return (
            f"{self.path} ends before its partitions do: it has {length:,} bytes, and its "
            f"partition table goes to byte {end:,}. What is missing there is in no backup of it."
        )

    @property
    def _raw(self) -> bool:
        return self.chain.layers[-1].info.format == DiskFormat.RAW

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.chain.close()


def open_source(
    path: Path,
    parents_in: Sequence[Path] = (),
    said: str | None = None,
    before: str | None = None,
) -> Source:
    """Open an image or a block device.

    Args:
        path: of the image or device.
        parents_in: folders besides its own in which a virtual disk's parents may lie.
        said: what it is, "raw" or a format, where the user says so; else its name and its content
            decide (disks/contents.py).
        before: what the user said when it was backed up last.

    Raises:
        SourceError: it cannot be read; says what would help. DiskError: it is not a valid disk;
        UnclearFormat where the user has to say what it is.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise SourceError(
                f"{path} is a folder, not a disk.", "Give a disk image or a block device."
            )
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise SourceError(
                f"{path} is neither a file nor a block device.",
                "Give a disk image or a block device.",
            )
        write_out(path)
        opener = _open_device if stat.S_ISBLK(mode) else _open_image
        return opener(path, parents_in, said, before)
    except FileNotFoundError:
        raise SourceNotFound(
            f"There is no {path}.", "Check the path.", remedy=Remedy.LIST_DEVICES
        ) from None
    except PermissionError:
        raise SourceError(f"You may not read {path}.", _permission_advice(path)) from None
    except OSError as error:
        raise SourceError(
            f"{path} cannot be opened: {error.strerror}.", "Check that the device is connected."
        ) from error


def _open_image(
    path: Path, parents_in: Sequence[Path], said: str | None, before: str | None
) -> Source:
    _check_not_empty(path, path.stat().st_size)
    decision = decide(path, said, before)
    if decision.disk_format == DiskFormat.RAW:
        _check_size(path, path.stat().st_size)
    chain = Chain.open(path, decision.disk_format, parents_in)
    try:
        source_id = f"file:{path.resolve()}"
        return Source(source_id, path, chain, chain.sector_size, said or before, decision.doubt)
    except BaseException:  # it was there a moment ago
        chain.close()
        raise


def _open_device(
    path: Path, parents_in: Sequence[Path], said: str | None, before: str | None
) -> Source:
    decision = decide(path, said, before)
    chain = Chain.open(path, decision.disk_format, parents_in)
    try:
        _check_size(path, chain.size)
        sector_size = chain.sector_size
        if decision.disk_format == DiskFormat.RAW:
            with open(path, "rb", buffering=0) as device:
                sector_size = sector_size_of(device.fileno())
        return Source(device_id(path), path, chain, sector_size, said or before)
    except BaseException:
        chain.close()
        raise


def _length(path: Path) -> int:
    """Of an image or a device, in bytes; a device that was unplugged has none, or none left."""
    with open(path, "rb", buffering=0) as file:
        return file.seek(0, os.SEEK_END)


def _shorter(path: Path) -> SourceError:
    return SourceError(
        f"{path} became shorter while it was read.",
        "Check that it is connected, and back it up while nothing resizes it.",
    )


def _check_not_empty(path: Path, size: int) -> None:
    if size == 0:
        raise SourceError(f"{path} is empty.", "Give a disk image or a block device with contents.")


def _check_size(path: Path, size: int) -> None:
    _check_not_empty(path, size)
    if size < SECTOR:
        raise SourceError(
            f"{path} is {size} bytes long, less than one sector of {SECTOR} bytes.",
            "Give a disk image or a block device.",
        )


def _permission_advice(path: Path) -> str:
    """Lets this user read it, and nothing else: a group that owns disks may read all of them."""
    if not os.access(path.parent, os.X_OK):
        return f"The folder {path.parent} does not let you in; ask its owner."
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # in a container it may have no name
        user = str(os.geteuid())
    until = " (until the next restart)" if path.is_block_device() else ""
    return f"Allow it with `sudo setfacl -m u:{user}:r {path}`{until}."
