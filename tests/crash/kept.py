"""A folder as it is where a process ends at any of its changes, to be brought back each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backup.kept import Contents, Kept
from tests.crash.faults import watched

SOME = 3
each_or_some = pytest.mark.parametrize(
    "every",
    [pytest.param(SOME, id="some"), pytest.param(1, id="each", marks=pytest.mark.long)],
)
"""At how many changes one is tried: of so many one in the short form, others in the next case."""


def ended_before_each_change(folder: Path, act: Callable[[], object]) -> list[Kept]:
    """The folder as it is where the process ends before a change that `act` makes.

    It is done once, to its end, and the folder is brought back. Before the first change it is as it
    was; after an fsync, which changes nothing that is read, as before it: what a power cut takes
    away that no fsync has covered, test_power_cut.py tries.
    """
    contents: Contents = {}
    moments = [Kept(folder, contents)]

    def keep(before: str) -> None:
        if before not in ("", "fsync"):
            moments.append(Kept(folder, contents))

    with watched(keep) as faults:
        act()
    assert {"fsync", "rename"} <= set(faults.calls)
    moments[0].bring_back()
    return moments
