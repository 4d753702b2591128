"""Data that nothing can guess or compress, for what a disk or a file holds."""

from __future__ import annotations

from blake3 import blake3


def noise(length: int, seed: int) -> bytes:
    """So many random bytes, the same for the same seed.

    Tests want gigabytes of it: BLAKE3 gives them ten times as fast as `random` does.
    """
    return blake3(seed.to_bytes(8, "little", signed=True)).digest(length)
