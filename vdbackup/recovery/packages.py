"""A point as clouds and appliances take it: beside the formats that a backup can be kept in.

    vhd-fixed      Azure: a fixed VHD of whole MiB
    vmdk-stream    AWS, vSphere: a compressed VMDK that is read once from its start to its end
    ova            vSphere, VirtualBox, AWS: a whole virtual machine in one file, with such a VMDK

An OVA is a tar archive in this order: what describes the machine (OVF), the digests of both files
(DSP0243 1.1.0, 5.1 and 6.1), the disk. The disk's size and digest are known last, and the first two
stand before it: their places are kept free, as large as they can become, and filled in the end.
"""

from __future__ import annotations

import enum
import hashlib
import os
import re
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from vdbackup.disks.disk import SECTOR
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.raw import RawDisk
from vdbackup.disks.transfer import Target
from vdbackup.disks.vhd import fixed
from vdbackup.disks.vmdk.stream import StreamVmdkWriter
from vdbackup.recovery.ovf import Appliance, envelope
from vdbackup.translation import tr
from vdbackup.volumes.gpt import move_second_copy

_MAX_FILE = 1 << 63
_BUFFER = 1 << 20
_TAR_RECORD = 10240
"""Bytes of which a tar archive consists of whole ones (POSIX, pax)."""
_MAX_USTAR = 8 << 30
"""Bytes of a file whose size 11 octal digits can tell; larger ones are told as GNU does it."""


class PackageFormat(enum.StrEnum):
    """A format that only exports have."""

    VHD_FIXED = "vhd-fixed"
    VMDK_STREAM = "vmdk-stream"
    OVA = "ova"


@dataclass(frozen=True)
class Package:
    """A kind of file to export to.

    Attributes:
        disk_format: whose limits on a disk it has.
        ending: that such a file usually has.
        words: what it is, for a person.
        in_order: whether it is written from its start to its end.
    """

    disk_format: DiskFormat
    ending: str
    words: str
    in_order: bool


PACKAGES: dict[str, Package] = {
    PackageFormat.VHD_FIXED: Package(
        DiskFormat.VHD, "vhd", tr("Fixed VHD of whole MiB, for Azure"), False
    ),
    PackageFormat.VMDK_STREAM: Package(
        DiskFormat.VMDK, "vmdk", tr("Compressed VMDK, for AWS and vSphere"), True
    ),
    PackageFormat.OVA: Package(
        DiskFormat.VMDK, "ova", tr("OVA, a whole machine, for VirtualBox and vSphere"), True
    ),
}


class Output(Target, Protocol):
    """What a point is written to."""

    def flush(self) -> None:
        """All has been written."""

    def close(self) -> None:
        """Close the file."""


def size_in(kind: DiskFormat | PackageFormat, size: int) -> int:
    """Bytes of the disk there, of one that has `size` bytes."""
    return -(-size // fixed.MIB) * fixed.MIB if kind == PackageFormat.VHD_FIXED else size


@contextmanager
def fixed_vhd(path: Path, size: int) -> Iterator[Output]:
    """A new fixed VHD; where it is larger than the disk, that disk's GPT fills it afterwards."""
    disk = RawDisk.create(path, size_in(PackageFormat.VHD_FIXED, size))
    try:
        yield disk
    finally:
        disk.close()
    with path.open("r+b") as file:
        move_second_copy(file.fileno(), SECTOR)
    fixed.end_fixed(path)


@contextmanager
def stream_vmdk(path: Path, size: int) -> Iterator[Output]:
    """A new compressed VMDK."""
    with open(path, "xb", _BUFFER, opener=_for_its_owner) as file:
        disk = StreamVmdkWriter(file.write, size, path.name, str(uuid.uuid4()))
        try:
            yield disk
        finally:
            disk.close()


def _for_its_owner(path: str, flags: int) -> int:
    """A disk holds what nobody else may read: the new file's mode, as in every other format."""
    return os.open(path, flags, 0o600)


@contextmanager
def ova(path: Path, size: int, describe: Callable[[str, str], Appliance]) -> Iterator[Output]:
    """A new OVA.

    Args:
        path: of the file.
        size: of the disk, in bytes.
        describe: the machine, of the disk's name in the archive and its UUID.
    """
    name, disk_id = _plain(path.stem), str(uuid.uuid4())
    appliance = describe(f"{name}-disk1.vmdk", disk_id)
    with open(path, "xb", _BUFFER, opener=_for_its_owner) as file:
        archive = _Archive(file, name, appliance)
        disk = StreamVmdkWriter(archive.append, size, appliance.disk_file, disk_id)
        try:
            yield disk
        finally:
            disk.close()
        archive.end()


class _Archive:
    """The tar archive in the making, its disk first."""

    def __init__(self, file: BinaryIO, name: str, appliance: Appliance) -> None:
        self._file = file
        self._name = name
        self._appliance = appliance
        self._size = 0
        self._digest = hashlib.sha256()
        self._space = len(envelope(appliance, _MAX_FILE))
        file.seek(len(self._head(b"", "0" * self._digest.digest_size * 2)))

    def append(self, data: bytes) -> None:
        """Take the next bytes of the disk's file."""
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def end(self) -> None:
        """The end of the archive, and what stands before the disk."""
        end = self._file.tell() + -self._size % SECTOR + 2 * SECTOR
        self._file.truncate(-(-end // _TAR_RECORD) * _TAR_RECORD)
        self._file.seek(0)
        text = envelope(self._appliance, self._size)
        self._file.write(self._head(text, self._digest.hexdigest()))

    def _head(self, text: bytes, digest: str) -> bytes:
        """All that stands before the disk; as long for every text and digest."""
        described = text.ljust(self._space)
        disk = self._appliance.disk_file
        manifest = (
            f"SHA256({self._name}.ovf)= {hashlib.sha256(described).hexdigest()}\n"
            f"SHA256({disk})= {digest}\n"
        ).encode()
        parts = []
        for name, content in ((f"{self._name}.ovf", described), (f"{self._name}.mf", manifest)):
            parts += [_header(name, len(content)), content, bytes(-len(content) % SECTOR)]
        return b"".join([*parts, _header(disk, self._size)])


def _header(name: str, size: int) -> bytes:
    """What stands before a file."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, int(time.time()), 0o644
    small = size < _MAX_USTAR
    return member.tobuf(tarfile.USTAR_FORMAT if small else tarfile.GNU_FORMAT)


def _plain(name: str) -> str:
    """A name that every program takes, and a tar's header."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "machine"


def is_in_order(disk_format: DiskFormat | PackageFormat) -> bool:
    """Whether such a file is written from its start to its end."""
    return isinstance(disk_format, PackageFormat) and PACKAGES[disk_format].in_order
