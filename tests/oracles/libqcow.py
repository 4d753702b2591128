"""libqcow as a reader that is not ours: a QCOW2 chain, put together by its own backing names."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pyqcow


def read(disk: Path) -> bytes:
    """All bytes of the disk, through its parents, which lie in the same folder."""
    with ExitStack() as stack:
        file = _opened(disk, stack)
        return bytes(file.read_buffer_at_offset(file.get_media_size(), 0))


def chain_names(disk: Path) -> list[str]:
    """The files that libqcow finds by the backing names inside them, the disk itself first."""
    names = [disk.name]
    with ExitStack() as stack:
        while parent := _file(disk.with_name(names[-1]), stack).get_backing_filename():
            names.append(Path(parent).name)
    return names


def assert_holds(disk: Path, raw: Path, disk_format: str = "qcow2") -> None:
    """libqcow reads the same bytes from the disk through its chain as `raw` holds."""
    wanted, found = raw.read_bytes(), read(disk)
    assert len(found) == len(wanted), f"{disk.name}: {len(found)} bytes instead of {len(wanted)}"
    if found != wanted:
        at = next(i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
        raise AssertionError(f"{disk.name} ({disk_format}): libqcow reads another byte at {at}")


def _file(disk: Path, stack: ExitStack) -> pyqcow.file:
    file = pyqcow.file()
    file.open(str(disk))
    stack.callback(file.close)
    return file


def _opened(disk: Path, stack: ExitStack) -> pyqcow.file:
    file = _file(disk, stack)
    if name := file.get_backing_filename():
        file.set_parent(_opened(disk.with_name(Path(name).name), stack))
    return file
