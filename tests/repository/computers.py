"""Other computers on the same storage: processes with another boot, machine and name than ours.

Each reaches a folder by a FUSE mount of its own (bindfs), which keeps flock to itself: so do NFS
with local_lock, SMB with nobrl, and sshfs.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sources.loops import unmount

HOLDER = """
import sys
from pathlib import Path
from vdbackup.repository.lock import writer_lock
with writer_lock(Path(sys.argv[1]), sys.argv[2]):
    print("locked", flush=True)
    sys.stdin.read()
"""
_ELSEWHERE = """
for file in /proc/sys/kernel/random/boot_id /etc/machine-id; do
    [ ! -e $file ] || mount --bind "$0" $file
done
hostname "$1"
shift
exec "$@"
"""


@contextmanager
def mounted(folder: Path, where: Path) -> Iterator[Path]:
    """The folder again, by a mount of its own."""
    where.mkdir()
    subprocess.run(["bindfs", str(folder), str(where)], check=True)
    try:
        yield where
    finally:
        unmount(where)


@contextmanager
def held(folder: Path, purpose: str, host: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the repository until it is killed; on another computer if named."""
    with running(HOLDER, folder, purpose, host=host) as process:
        yield process


@contextmanager
def running(
    script: str, folder: Path, *arguments: str, host: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A script that has said that it is where it should be; on another computer if named."""
    command = [sys.executable, "-c", script, str(folder), *arguments]
    if host:
        boot = folder.parent / f"boot-of-{host}"
        boot.write_text(f"{uuid.uuid4()}\n")
        command = ["unshare", "--mount", "--uts", "sh", "-c", _ELSEWHERE, str(boot), host, *command]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() in ("locked\n", "reading\n", "changing\n")
        try:
            yield process
        finally:
            process.kill()
