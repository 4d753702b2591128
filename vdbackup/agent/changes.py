"""Which blocks have changed, and as of when: what a harvest gives, and what a point notes of it."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK = 64 << 10
"""Bytes for each of which there is one bit."""
PAGE = 4096
"""Bytes of a bitmap that are looked at together: those of 2 GiB of disk."""
CLEAN = bytes(PAGE)


@dataclass(frozen=True)
class Token:
    """A moment that a tracker knows. A recovery point notes the one of its last harvest.

    Attributes:
        nonce: which tracker: 32 hex digits, made up when tracking began, so that none is like it
            after the next boot.
        generation: how often it had been harvested.
        start: where on the whole disk the device begins, in bytes: 0 but for a partition.
        size: of the device, in bytes.
    """

    nonce: str
    generation: int
    start: int
    size: int


@dataclass(frozen=True)
class Changes:
    """What has changed of a device; what is not among it has surely not.

    Attributes:
        bitmap: of the whole disk that the device lies on; a bit for each BLOCK, the first block's
            is the lowest of the first byte (numpy's `bitorder="little"`).
        start: where on that disk the device begins, in bytes.
        size: of the device, in bytes.
    """

    bitmap: bytes
    start: int
    size: int


@dataclass(frozen=True)
class Harvest:
    """What a follower is told at one moment.

    Attributes:
        token: names the moment, for the next harvest and for a point's manifest; None where the
            tracker cannot be trusted any more: it has to be begun anew (`tracking.track`).
        changes: since the moment that was asked about; None where that is not known, and
            everything has to be read.
        reason: why it is not known, to be put behind "because"; "" if it is, or nothing was asked.
    """

    token: Token | None
    changes: Changes | None
    reason: str
