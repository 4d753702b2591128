"""Chains of VMDK files that QEMU's own tools made, to boot from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from tests.oracles import qemu

BLOCK = 64 << 10


def make(folder: Path, *states: Path) -> Path:
    """A chain in `folder`: the first state whole, what changed to each next one, an empty overlay.

    Args:
        states: raw images of the same size, oldest first.

    Returns:
        The overlay. All files are read-only.
    """
    folder.mkdir(parents=True, exist_ok=True)
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
    for file in folder.glob("*.vmdk"):
        file.chmod(0o444)
    return overlay


def digests(overlay: Path) -> dict[str, str]:
    """SHA-256 of each file of the chain, by name."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in overlay.parent.glob("*.vmdk")
    }


def _writes(old: bytes, new: bytes, folder: Path) -> Iterator[str]:
    """Commands of qemu-io that write the blocks in which `new` differs from `old`."""
    for offset in range(0, len(new), BLOCK):
        block = new[offset : offset + BLOCK]
        if block != old[offset : offset + BLOCK]:
            file = folder / f"block{offset}"
            file.write_bytes(block)
            yield f"write -q -s {file} {offset} {len(block)}"
