"""A stretch of a disk as a plain file, for tools that work on files or devices.

qemu-storage-daemon exports it by FUSE onto a file of ours: nothing is mounted as a disk, and nobody
has to be root. The daemon is our child, not a daemon: it ends with the `with` block whatever
happens in there, and with it what it has put over the file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vdbackup.errors import OtherProgramFailed, ProgramMissing, RecoveryError
from vdbackup.qemu import qemu
from vdbackup.qemu.qemu import Node
from vdbackup.translation import tr

DAEMON = "qemu-storage-daemon"
_UNMOUNT = "fusermount3"
_LIMIT = 30.0
"""Seconds that the daemon may take to begin, and to end."""
_POLL = 0.02


def above(scratch: Path, backing: qemu.Backing) -> Sequence[Node]:
    """A qcow2 child of `backing`, which is opened for reading; the child takes what is written."""
    disk = {
        "driver": "qcow2",
        "node-name": "scratch",
        "backing": backing.nodes[-1]["node-name"],
        "file": {"driver": "file", "filename": str(scratch)},
    }
    return (*backing.nodes, disk)


def raw(target: Path) -> Sequence[Node]:
    """A raw file or a device."""
    driver = "host_device" if target.is_block_device() else "file"
    return ({"driver": driver, "node-name": "target", "filename": str(target)},)


@contextmanager
def exported(nodes: Sequence[Node], offset: int, size: int, folder: Path) -> Iterator[Path]:
    """A file whose bytes are those of a stretch of a disk, for reading and writing.

    What was written is in the disk's file when the block ends.

    Args:
        nodes: the disk as QEMU opens it, each node after those that it needs, itself last.
        offset: of the stretch, in bytes.
        size: likewise.
        folder: takes a folder with the file in it for as long as it is there.

    Raises:
        RecoveryError: a program is missing, or the kernel has no FUSE for this user.
    """
    _check_programs()
    with tempfile.TemporaryDirectory(prefix="export-", dir=folder) as own:
        file, complaints = Path(own) / "partition", Path(own) / "complaints"
        file.touch()
        before = file.stat().st_dev
        with complaints.open("wb") as output:
            daemon = subprocess.Popen(
                _command(nodes, offset, size, file),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C in our terminal is not for it: we end it
            )
        try:
            _wait_until_there(daemon, file, before, complaints)
            yield file
        finally:
            _end(daemon, file, before)
        if daemon.returncode:
            raise _failed(complaints)


def _check_programs() -> None:
    for program, package in ((DAEMON, "qemu-system-common"), (_UNMOUNT, "fuse3")):
        if shutil.which(program) is None:
            raise ProgramMissing(
                tr(
                    "No other program can work on a partition here: {program} is not installed.",
                    program=program,
                ),
                tr("Install it with: sudo apt install {package}", package=package),
            )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise ProgramMissing(
            tr(
                "No other program can work on a partition here: there is no FUSE for you "
                "(/dev/fuse)."
            ),
            tr("Load the kernel's module fuse, or choose what needs no other program."),
        )


def _command(nodes: Sequence[Node], offset: int, size: int, file: Path) -> list[str]:
    part = {
        "driver": "raw",
        "node-name": "partition",
        "offset": offset,
        "size": size,
        "file": nodes[-1]["node-name"],
    }
    export = {
        "type": "fuse",
        "id": "export",
        "node-name": "partition",
        "mountpoint": str(file),
        "writable": True,
        "allow-other": "off",
    }
    return [
        *("setpriv", "--pdeathsig", "TERM"),  # it ends with us, also where we are killed
        DAEMON,
        *(word for node in (*nodes, part) for word in ("--blockdev", json.dumps(node))),
        *("--export", json.dumps(export)),
    ]


def _wait_until_there(
    daemon: subprocess.Popen[bytes], file: Path, before: int, complaints: Path
) -> None:
    deadline = time.monotonic() + _LIMIT
    while file.stat().st_dev == before:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise _failed(complaints)
        time.sleep(_POLL)


def _end(daemon: subprocess.Popen[bytes], file: Path, before: int) -> None:
    """End the daemon, which writes out what it has, and see to it that the file is a file again."""
    daemon.terminate()
    try:
        daemon.wait(_LIMIT)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    if _is_mount(file, before):
        subprocess.run([_UNMOUNT, "-u", "-z", str(file)], capture_output=True, check=False)


def _is_mount(file: Path, before: int) -> bool:
    try:
        return file.stat().st_dev != before
    except OSError:  # a mount whose daemon is gone does not answer
        return True


def _failed(complaints: Path) -> RecoveryError:
    return OtherProgramFailed(
        tr("No other program could work on the partition: it could not be exported."),
        qemu.first_complaint(complaints.read_text(errors="replace")),
    )
