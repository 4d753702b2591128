"""libvmdk as a reader that is not ours: a whole chain, put together by its own parent names."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pyvmdk


def read(disk: Path) -> bytes:
    """All bytes of the disk, through its parents, which lie in the same folder."""
    with ExitStack() as stack:
        handle = _opened(disk, stack)
        return bytes(handle.read_buffer_at_offset(handle.get_media_size(), 0))


def chain_names(disk: Path) -> list[str]:
    """The files that libvmdk finds by the parent names inside them, the disk itself first."""
    names = [disk.name]
    with ExitStack() as stack:
        handle = _handle(disk, stack)
        while parent := handle.get_parent_filename():
            names.append(Path(parent).name)
            handle = _handle(disk.with_name(names[-1]), stack)
    return names


def assert_holds(disk: Path, raw: Path, disk_format: str = "vmdk") -> None:
    """libvmdk reads the same bytes from the disk through its chain as `raw` holds."""
    wanted = raw.read_bytes()
    wanted = wanted.ljust(-(-len(wanted) // 512) * 512, b"\0")
    found = read(disk)
    assert len(found) == len(wanted), f"{disk.name} ({disk_format}): {len(found)} bytes"
    if found != wanted:
        at = next(i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
        raise AssertionError(f"{disk.name}: libvmdk reads another byte at {at}")


def assert_names_itself(disk: Path) -> None:
    """The extent is said to lie in this file: the distributions' libvmdk looks, PyPI's does not."""
    with ExitStack() as stack:
        extents = _handle(disk, stack).extent_descriptors
        assert [extent.get_filename() for extent in extents] == [disk.name]


def _handle(disk: Path, stack: ExitStack) -> pyvmdk.handle:
    handle = pyvmdk.handle()
    handle.open(str(disk))
    stack.callback(handle.close)
    return handle


def _opened(disk: Path, stack: ExitStack) -> pyvmdk.handle:
    """An open handle with its parents set, the extents found by the names in the descriptor."""
    handle = _handle(disk, stack)
    handle.open_extent_data_files()
    if handle.get_parent_filename():
        parent = _opened(disk.with_name(Path(handle.get_parent_filename()).name), stack)
        handle.set_parent(parent)
    return handle
