"""The distribution's own libvmdk and libvhdi: older than PyPI's, and stricter about names.

Debian's libvmdk looks for an extent by the name in its line. The library of the tests' environment
does not, so the two are asked as two readers. They are packages for the system's Python.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

_PYTHON = "/usr/bin/python3"
_READ = """
import hashlib, os, re, sys

def vmdk(path):
    import pyvmdk
    disk = pyvmdk.handle()
    disk.open(path)
    disk.open_extent_data_files()
    return disk, disk.get_parent_filename()

def vhd(path):
    import pyvhdi
    disk = pyvhdi.file()
    disk.open(path)
    return disk, disk.get_parent_filename()

def opened(path):
    disk, parent = (vmdk if path.endswith("vmdk") else vhd)(path)
    chain.append(disk)
    if parent:
        name = re.split(r"[/\\\\]", parent)[-1]
        disk.set_parent(opened(os.path.join(os.path.dirname(path), name)))
    return disk

chain = []
disk = opened(sys.argv[1])
found = hashlib.sha256()
for at in range(0, disk.get_media_size(), 1 << 20):
    found.update(disk.read_buffer_at_offset(min(1 << 20, disk.get_media_size() - at), at))
print(disk.get_media_size(), found.hexdigest())
"""


def assert_holds(disk: Path, raw: Path) -> None:
    """The system's libvmdk or libvhdi reads from the disk, through its chain, what `raw` holds."""
    done = subprocess.run(
        [_PYTHON, "-I", "-c", _READ, str(disk)],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, f"{disk.name}: {done.stderr}"
    wanted = raw.read_bytes()
    assert done.stdout.split() == [str(len(wanted)), hashlib.sha256(wanted).hexdigest()], disk.name
