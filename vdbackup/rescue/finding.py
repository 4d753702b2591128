"""Finds repositories on whatever disks are attached, for whoever has started from a medium.

A disk may be the very one that is to be saved: nothing is written to it. Its file systems are
mounted read-only and without replaying their logs, and unmounted again where no backups lie there.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdbackup.errors import DevicesNotListed, NeedsRoot
from vdbackup.jobs import Task
from vdbackup.repository.marker import MARKER
from vdbackup.translation import tr

log = logging.getLogger(__name__)

PLACE = Path("/run/vdbackup-rescue")
"""Where file systems are mounted, each in a folder named after its device."""
_DEPTH = 3
"""Folders below a file system's own in which a repository is looked for."""
_MAX_FOLDERS = 5000
"""Of a file system that are looked into: whoever keeps backups deeper mounts and names them."""
_PATIENCE = 60.0
_COMMON = "ro,nosuid,nodev,noexec"
_OPTIONS = {
    "btrfs": "rescue=nologreplay",
    "exfat": "",
    "ext2": "",
    "ext3": "noload",
    "ext4": "noload",
    "ntfs": "",
    "vfat": "",
    "xfs": "norecovery,nouuid",
}
"""File systems that backups may lie on, and what keeps the kernel from replaying their logs."""
_NETWORKS = {"cifs", "fuse.sshfs", "nfs", "nfs4", "smb3"}


@dataclass(frozen=True)
class FoundRepository:
    """A folder with backups.

    Attributes:
        folder: the repository's.
        where: the device, or the share, that it lies on.
    """

    folder: Path
    where: str


def find(task: Task) -> list[FoundRepository]:
    """All repositories on attached disks, which stay mounted, and on network shares that are.

    Raises NeedsRoot, or DevicesNotListed.
    """
    if os.geteuid() != 0:
        raise NeedsRoot(tr("Only root may mount what is attached."), tr("Do it as root."))
    found: list[FoundRepository] = []
    with _alone():
        _run("vgchange", "--activate", "y", "--quiet")
        for device in _devices():
            task.check()
            task.phase(tr("Look at {path}", path=device["path"]))
            found += _on_device(device)
        _run("vgchange", "--activate", "n", "--quiet")  # those that nothing is mounted from
    for source, folder in _shares():
        found += [FoundRepository(each, source) for each in repositories_below(folder)]
    return found


@contextmanager
def _alone() -> Iterator[None]:
    """Keep others from mounting and unmounting meanwhile: a medium has more than one console."""
    PLACE.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(PLACE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _devices() -> list[dict[str, Any]]:
    """What file systems lie on, by lsblk(8)."""
    command = ("lsblk", "--json", "--list", "--output", "PATH,FSTYPE,MOUNTPOINTS")
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=_PATIENCE)
        rows: list[dict[str, Any]] = json.loads(done.stdout)["blockdevices"]
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        raise DevicesNotListed(
            tr("The block devices cannot be listed: {error}.", error=error),
            tr("That is done by lsblk, of the package util-linux: check that it works here."),
        ) from error
    return [row for row in rows if row["fstype"] in _OPTIONS]


def _on_device(device: dict[str, Any]) -> Iterator[FoundRepository]:
    path, mounted = device["path"], [each for each in device["mountpoints"] if each]
    folder = Path(mounted[0]) if mounted else _mounted(path, device["fstype"])
    if folder is None:
        return
    repositories = repositories_below(folder)
    if not repositories and not mounted and _run("umount", str(folder)):
        folder.rmdir()
    yield from (FoundRepository(each, path) for each in repositories)


def _mounted(device: str, kind: str) -> Path | None:
    """Where a device has just been mounted; None where it cannot be."""
    folder = PLACE / re.sub(r"[^A-Za-z0-9._-]", "-", device.removeprefix("/dev/"))
    folder.mkdir(mode=0o700, exist_ok=True)
    options = ",".join(filter(None, (_COMMON, _OPTIONS[kind])))
    if _run("mount", "-o", options, device, str(folder)):
        return folder
    with suppress(OSError):  # another disk is mounted there: it had the same name before
        folder.rmdir()
    return None


def _run(*command: str) -> bool:
    """Whether a program did what it was told to; what it said goes to the log."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s: %s", command, error)
        return False
    if done.returncode:
        log.info("%s: %s %s", command, done.returncode, done.stderr.decode(errors="replace"))
    return done.returncode == 0


def _shares() -> Iterator[tuple[str, Path]]:
    """What is mounted over a network: its address, and where (proc(5), mounts)."""
    for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
        source, folder, kind = line.split(" ")[:3]
        if kind in _NETWORKS:
            plain = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), folder)
            yield source, Path(plain)


def repositories_below(top: Path) -> list[Path]:
    """Folders that are repositories, `top` itself among them; no link is followed."""
    found: list[Path] = []
    looked, level = 0, [top]
    for _ in range(_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            looked += 1
            if looked > _MAX_FOLDERS:
                return found
            names = _entries(folder)
            if MARKER in names and not names[MARKER]:
                found.append(folder)
            else:
                below += [folder / name for name, is_folder in names.items() if is_folder]
        level = below
    return found


def _entries(folder: Path) -> dict[str, bool]:
    """What lies in a folder, and whether it is a folder; nothing where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {each.name: each.is_dir(follow_symlinks=False) for each in entries}
    except OSError as error:
        log.info("%s: %s", folder, error)
        return {}
