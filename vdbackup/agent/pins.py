"""Where the kernel keeps what is to outlive us: a folder for each tracker in a bpf file system.

    /sys/fs/bpf/vdbackup/7:0-394/      the disk's number, and that of its medium (diskseq)
        state, bits                    maps: generation, flags, counts and description; marks
        program0, link0 ...            the copies of the program, and what lets them run
        of_NAME                        what has changed for one follower

It is memory of the kernel's: gone at the next boot, and with the last pin a program ends. Whoever
is in a mount namespace with a bpf file system of its own has trackers of its own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

from vdbackup.agent.block_devices import Disk
from vdbackup.durable import hold_lock
from vdbackup.errors import NeedsRoot, Remedy, TrackerBusy, TrackingNotSupported
from vdbackup.translation import tr

BPFFS = Path("/sys/fs/bpf")
_MAGIC = 0xCAFE4A11
_SAFELY = 2 | 4 | 8
"""mount(2): no set-user-ids, devices or programs in it."""
_NAME = re.compile(r"\d+:\d+-\d+")
_OF = "of_"
MAX_NAME = 200
"""Bytes of a follower's name as a file's."""
_PATIENCE = 2.0
"""Seconds that another process is waited for: a file system may be frozen meanwhile."""
_STEP = 0.005

_libc = ctypes.CDLL(None, use_errno=True)


def folder_of(disk: Disk) -> Path:
    """Where the tracker of a disk with its present medium is, or would be."""
    return home() / f"{disk.number}-{disk.medium}"


def disk_of(folder: Path) -> tuple[Disk, int]:
    """Of which disk it is the tracker, and of which medium in that."""
    number, _, medium = folder.name.partition("-")
    major, _, minor = number.partition(":")
    return Disk(int(major), int(minor)), int(medium)


def home() -> Path:
    """The folder of all trackers, which need not be there."""
    return BPFFS / "vdbackup"


def make_home() -> None:
    """Make it, and mount a bpf file system if there is none.

    Raises:
        NeedsRoot: this user may not. TrackingNotSupported: the kernel has none.
    """
    try:
        if not _is_mounted():
            _mount()
        home().mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise refused(error, tr("no tracker can be kept in {bpffs}", bpffs=BPFFS)) from error


def _is_mounted() -> bool:
    """Whether BPFFS is a bpf file system; raises OSError where there is no such folder."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(BPFFS), buffer):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(BPFFS))
    return bool(struct.unpack_from("<q", buffer)[0] == _MAGIC)


def _mount() -> None:
    """As systemd does it, for root alone."""
    if _libc.mount(b"bpf", os.fsencode(BPFFS), b"bpf", ctypes.c_ulong(_SAFELY), b"mode=700"):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(BPFFS))


def refused(error: OSError, what: str) -> NeedsRoot | TrackingNotSupported:
    """What it means that the kernel refuses something of a tracker's."""
    if error.errno in (errno.EPERM, errno.EACCES) and os.geteuid():
        return NeedsRoot(
            tr("Only root may track which blocks of a disk change."),
            tr("Do it as root, or with the rights CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN."),
            remedy=Remedy.INSTALL_AGENT,
        )
    if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        return TrackingNotSupported(
            tr(
                "This system does not allow it: {what} ({reason}).",
                what=what,
                reason=error.strerror,
            ),
            tr(
                "A kernel that is locked down for confidentiality, a container or another guard "
                "may be the cause; everything is read at each backup instead."
            ),
        )
    return TrackingNotSupported(
        tr("This kernel cannot do it: {what} ({reason}).", what=what, reason=error.strerror),
        tr("Changes are tracked by Linux 5.15 and later; until then everything is read."),
    )


def folders() -> list[Path]:
    """Of all trackers.

    Raises NeedsRoot where this user may not look.
    """
    try:
        return sorted(folder for folder in home().iterdir() if _NAME.fullmatch(folder.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise refused(error, tr("trackers cannot be listed")) from error


def follower_file(folder: Path, name: str) -> Path:
    """Where a follower is kept; bpf file systems have no dots in names."""
    return folder / (_OF + quote(name, safe="").replace(".", "%2E"))


def followers(folder: Path) -> dict[str, Path]:
    """By their names."""
    found = sorted(folder.glob(f"{_OF}*"))
    return {unquote(file.name.removeprefix(_OF)): file for file in found}


def remove(folder: Path) -> None:
    """Remove a tracker: its links first, without which nothing is marked; raises OSError."""
    with _gone():
        for file in sorted(folder.iterdir(), key=lambda each: not each.name.startswith("link")):
            with _gone():
                file.unlink()
        folder.rmdir()


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        return


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """With nobody else at work in a folder.

    Raises:
        TrackerBusy: somebody is for longer than a moment. FileNotFoundError: it is gone.
    """
    fd = _locked(folder)
    try:
        yield
    finally:
        os.close(fd)


def _locked(folder: Path) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return hold_lock(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TrackerBusy(
                    tr("Another process is at work with the tracker of this disk."),
                    tr("Try again when it has ended."),
                ) from None
        time.sleep(_STEP)
