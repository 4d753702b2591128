"""libvhdi as a reader that is not ours: VHD and VHDX, put together by their own parent names."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pyvhdi


def read(disk: Path) -> bytes:
    """All bytes of the disk, through its parents, which lie in the same folder."""
    with ExitStack() as stack:
        file = _opened(disk, stack)
        return bytes(file.read_buffer_at_offset(file.get_media_size(), 0))


def chain_names(disk: Path) -> list[str]:
    """The files that libvhdi finds by the parent names inside them, the disk itself first."""
    names = [disk.name]
    with ExitStack() as stack:
        while parent := _parent(disk.with_name(names[-1]), stack):
            names.append(parent.name)
    return names


def assert_holds(disk: Path, raw: Path, disk_format: str) -> None:
    """libvhdi reads the same bytes from the disk through its chain as `raw` holds."""
    wanted, found = raw.read_bytes(), read(disk)
    assert len(found) == len(wanted), f"{disk.name}: {len(found)} bytes instead of {len(wanted)}"
    if found != wanted:
        at = next(i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
        raise AssertionError(f"{disk.name} ({disk_format}): libvhdi reads another byte at {at}")


def _file(disk: Path, stack: ExitStack) -> pyvhdi.file:
    file = pyvhdi.file()
    file.open(str(disk))
    stack.callback(file.close)
    return file


def _parent(disk: Path, stack: ExitStack) -> Path | None:
    """Where the disk's parent is: the file of that name, or the one with its identity.

    Of a VHDX libvhdi tells only `absolute_win32_path`, which no disk made on Linux has.
    """
    file = _file(disk, stack)
    if name := file.get_parent_filename():
        return disk.with_name(re.split(r"[/\\]", name)[-1])
    if wanted := file.get_parent_identifier():
        for other in sorted(disk.parent.glob(f"*{disk.suffix}")):
            if _file(other, stack).get_identifier() == wanted:
                return other
        raise AssertionError(f"{disk.name}: no parent {wanted} in its folder")
    return None


def _opened(disk: Path, stack: ExitStack) -> pyvhdi.file:
    file = _file(disk, stack)
    if where := _parent(disk, stack):
        parent = _opened(where, stack)
        assert file.get_parent_identifier() == parent.get_identifier(), f"{disk.name}: its parent"
        file.set_parent(parent)
    return file
