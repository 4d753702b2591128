"""Sizes in sentences: a person reads them, and two that differ are never said to be the same."""

from __future__ import annotations

from vdbackup.jobs import sizes_apart


def test_two_sizes_that_differ_are_said_to_differ() -> None:
    assert sizes_apart(64 << 20, 32 << 20) == ("64 MiB", "32 MiB")
    assert sizes_apart(64 << 20, (64 << 20) - 512) == ("67,108,864 bytes", "67,108,352 bytes")
