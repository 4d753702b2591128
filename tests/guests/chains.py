"""Chains to boot from: of VMDK files that QEMU's own tools made, of other formats by ours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.disks.shelf import Shelf
from tests.oracles import qemu

BLOCK = 64 << 10


def make(folder: Path, *states: Path, disk_format: str = "vmdk") -> Path:
    """A chain in `folder`: the first state whole, what changed to each next one, an empty overlay.

    Args:
        states: raw images of the same size, oldest first.
        disk_format: of all layers; QEMU makes no children in VHD and VHDX, so those are ours.

    Returns:
        The overlay. All files are read-only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if disk_format == "vmdk":
        overlay = _make_vmdk(folder, states)
    else:
        overlay = _make_ours(folder, states, disk_format)
    for file in folder.iterdir():
        file.chmod(0o444)
    return overlay


def digests(overlay: Path) -> dict[str, str]:
    """SHA-256 of each file of the chain, by name."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in overlay.parent.glob(f"*{overlay.suffix}")
    }


def _make_ours(folder: Path, states: Sequence[Path], disk_format: str) -> Path:
    shelf = Shelf(folder, states[0].stat().st_size, disk_format)
    for number, state in enumerate(states):
        changed = _changed(bytes(shelf.raw), state.read_bytes())
        shelf.add(f"{number}.{disk_format}", *changed)
    return shelf.add(f"overlay.{disk_format}")


def _make_vmdk(folder: Path, states: Sequence[Path]) -> Path:
    size = states[0].stat().st_size
    old = bytes(size)
    parent = None
    for number, state in enumerate(states):
        layer, new = folder / f"{number}.vmdk", state.read_bytes()
        qemu.create(layer, size, parent)
        qemu.io(layer, *_writes(old, new, folder))
        parent, old = layer.name, new
    overlay = folder / "overlay.vmdk"
    qemu.create(overlay, size, parent)
    for file in folder.glob("block*"):
        file.unlink()
    return overlay


def _writes(old: bytes, new: bytes, folder: Path) -> Iterator[str]:
    """Commands of qemu-io that write the blocks in which `new` differs from `old`."""
    for offset, block in _changed(old, new):
        file = folder / f"block{offset}"
        file.write_bytes(block)
        yield f"write -q -s {file} {offset} {len(block)}"


def _changed(old: bytes, new: bytes) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, len(new), BLOCK):
        block = new[offset : offset + BLOCK]
        if block != old[offset : offset + BLOCK]:
            yield offset, block
