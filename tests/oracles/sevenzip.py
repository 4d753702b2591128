"""7-Zip as a reader that is not ours: VHD and VHDX with their parents, which it finds by itself."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

_TYPES = {"vhd": "VHD", "vhdx": "VHDX"}
_PIECE = 1 << 20
PROGRAM = "7zz" if shutil.which("7zz") else "7z"
"""Debian's package names it so until 12, and otherwise from 13 on."""


def opens(raw: Path, disk_format: str) -> bool:
    """Whether 7-Zip opens a disk with sectors of 512 bytes that is as large as `raw`.

    A VHDX whose size is no multiple of 8 sectors it does not (26.02).
    """
    return disk_format != "vhdx" or raw.stat().st_size % (8 * 512) == 0


def assert_holds(disk: Path, raw: Path, disk_format: str) -> None:
    """7-Zip reads the same bytes, and as many, from the disk through its chain as `raw` holds."""
    # the type by name, or it would look for an archive inside the disk
    command = [PROGRAM, "x", "-so", "-bd", f"-t{_TYPES[disk_format]}", str(disk)]
    found, size = hashlib.sha256(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while piece := process.stdout.read(_PIECE):
            found.update(piece)
            size += len(piece)
        complaint = process.stderr.read().decode(errors="replace")
    assert process.returncode == 0, f"{disk.name}: {complaint}"
    assert size == raw.stat().st_size, f"{disk.name}: 7-Zip reads {size} bytes"
    with raw.open("rb") as file:
        wanted = hashlib.file_digest(file, "sha256")
    assert found.digest() == wanted.digest(), f"{disk.name}: 7-Zip reads other bytes"
