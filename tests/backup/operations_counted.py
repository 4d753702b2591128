"""What a piece of work does, counted: for what grows with the points, and not with their square."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from vdbackup.disks.extents import BlockMap
from vdbackup.repository import naming


@dataclass
class Counts:
    """How many files were opened, layers among them, names of folders listed, and maps of layers
    looked through."""

    opened: int = 0
    layers: int = 0
    listed: int = 0
    maps: int = 0


@contextmanager
def operations_counted(within: Path) -> Iterator[Counts]:
    """Count in this process, as long as the context lasts, what is done below that folder."""
    counts = Counts()
    open_file, list_folder, of_layer = os.open, os.listdir, BlockMap.of_layer

    def is_within(path: Any) -> bool:
        return str(os.fspath(path)).startswith(str(within))

    def opened(path: Any, *arguments: Any, **options: Any) -> int:
        counts.opened += is_within(path)
        counts.layers += is_within(path) and naming.layer_of(Path(path).name) is not None
        return open_file(path, *arguments, **options)

    def listed(path: Any) -> list[str]:
        names = list_folder(path)
        counts.listed += len(names) * is_within(path)
        return names

    def mapped(*arguments: Any) -> BlockMap:
        counts.maps += 1
        return of_layer(*arguments)

    with (
        patch.object(os, "open", opened),
        patch.object(os, "listdir", listed),
        patch.object(BlockMap, "of_layer", mapped),
    ):
        yield counts


def assert_linear(few: Counts, more: Counts, most: Counts, *, but: str = "") -> None:
    """Three numbers of points, each as many more than the one before: the work grows as evenly.

    A look at each point's parents would add to the second step what it did not to the first: the
    square of the step, which is some dozens here; a handful may be anything. What `but` names is
    not looked at.
    """
    for name in set(vars(few)) - {but}:
        a, b, c = (getattr(each, name) for each in (few, more, most))
        assert abs((c - b) - (b - a)) <= 12, f"{name}: {a}, {b}, {c}"
