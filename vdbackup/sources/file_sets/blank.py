"""The empty disk that chosen files are kept in: a GPT, one partition, an ext4 without a journal.

What is written to it later is image.py's.
"""

from __future__ import annotations

import os
import subprocess
import uuid

from vdbackup.disks.disk import FINE_UNIT, LARGEST_FINE, UNIT
from vdbackup.errors import FileSystemNotMade, ProgramMissing
from vdbackup.sources.file_sets.delta import Delta
from vdbackup.sources.file_sets.inode import BLOCK
from vdbackup.translation import tr
from vdbackup.volumes.gpt import LINUX, write_table

START = 1 << 20
"""Byte at which the partition begins; as much is left behind it, for the table's second copy."""
SECTOR = 512
"""Bytes of a sector of the disk."""
LEAST = 16 << 30
"""Bytes of the smallest disk: what is empty costs almost nothing, and it need not grow soon."""
_PER_INODE = 16 << 10
"""Bytes of the disk for each inode (mke2fs.conf, inode_ratio)."""
_ROOMY = 4
"""So much more than its content is a new disk."""
_MKE2FS = (
    "mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-I", "256", "-m", "0",
    "-i", str(_PER_INODE), "-O", "^has_journal,^resize_inode",
)  # fmt: skip


def size_for(content: int, files: int, before: int | None) -> int:
    """Bytes of a disk for so much: as before, if that does.

    Args:
        content: bytes of the files, whole blocks.
        files: how many, folders included.
        before: of the disk before, if there is one.
    """
    least = content + content // 8 + files * _PER_INODE * 2 + (64 << 20)
    if before is not None and least <= before:
        return before
    size = LEAST
    while size < _ROOMY * max(content, files * _PER_INODE):
        size *= 2
    return size


def unit_for(size: int, content: int, files: int) -> int:
    """Bytes in which what is kept on a disk of `size` is compared (disks/disk.py).

    Where files are small, most of what changes is an inode here and there: where one file of a
    hundred has changed, 92 of 100 units of 64 KiB of the inode tables have, and 27 of those of
    8 KiB. Where files are large, their content is; the digests of small units would be eight times
    as many, and spare nothing.
    """
    return FINE_UNIT if size <= LARGEST_FINE and content < files * UNIT else UNIT


def make(delta: Delta) -> None:
    """Make the empty disk; raises ProgramMissing, FileSystemNotMade."""
    length = delta.size - 2 * START
    own = str(uuid.uuid4())
    write_table(delta.fd, delta.size, SECTOR, START, length, LINUX, "files")
    command = [
        *_MKE2FS, "-U", own,
        "-E", f"offset={START},lazy_itable_init=1,hash_seed={own}",
        f"/proc/self/fd/{delta.fd}", f"{length // 1024}k",
    ]  # fmt: skip
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    try:
        done = subprocess.run(
            command, pass_fds=(delta.fd,), capture_output=True, check=False,
            env={"PATH": path, "LC_ALL": "C.UTF-8"}, text=True, errors="replace",
        )  # fmt: skip
    except FileNotFoundError:
        raise ProgramMissing(
            tr("Chosen files are kept in a file system that mke2fs makes, which is not installed."),
            tr("Install it (Debian and Ubuntu: apt install e2fsprogs)."),
        ) from None
    if done.returncode:
        raise FileSystemNotMade(
            tr(
                "mke2fs could not make a file system: {stderr}.",
                stderr=done.stderr.strip() or done.returncode,
            ),
            tr("Check that there is space for it in /var/tmp, or name another folder in TMPDIR."),
        )
    delta.note_written()
