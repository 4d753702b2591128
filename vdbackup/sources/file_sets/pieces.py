"""Blocks of a file, many in a row as one piece: what lies in one list of them, or in both."""

from __future__ import annotations

from collections.abc import Sequence

from vdbackup.sources.file_sets.inode import BLOCK

Piece = tuple[int, int]
"""First block and how many, of a file."""


def blocks_of(stretches: Sequence[tuple[int, int]]) -> list[Piece]:
    """The blocks that bytes lie in, those that touch joined."""
    found: list[Piece] = []
    for start, end in stretches:
        first, last = start // BLOCK, -(-end // BLOCK)
        if found and found[-1][0] + found[-1][1] >= first:
            first = found.pop()[0]
        found.append((first, last - first))
    return found


def less(pieces: Sequence[Piece], others: Sequence[Piece]) -> list[Piece]:
    """What lies in the first and not in the others; both ascend."""
    found = []
    for first, count in pieces:
        at, end = first, first + count
        for other, length in others:
            if other + length <= at or other >= end:
                continue
            if other > at:
                found.append((at, other - at))
            at = max(at, other + length)
        if at < end:
            found.append((at, end - at))
    return found


def common(pieces: Sequence[Piece], others: Sequence[Piece]) -> list[Piece]:
    """What lies in both."""
    return less(pieces, less(pieces, others))
