"""Which tests the short form takes: of a claim about the engine, one format for each of its cases.

What a format's code does is claimed in `disks/`, there in each of them. What is built on the
contract that they share (`vdbackup/disks/disk.py`) cannot tell one from another, and to say it four
times took half of all processor time. So of a test in one of the places of ENGINE that takes
`disk_format`, the short form keeps a diagonal: its first case in one format, the second in the
next, and so on, beginning where the test's name says. Each case is there once, and whoever has four
has each format, too; in every run they are the same. The others are marked `long`.

    @pytest.mark.each_format

keeps all formats of a test whose claim rests on a format's own code: one of each operation has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import pytest

from vdbackup.disks.formats import FORMATS

TESTS = Path(__file__).parent
ENGINE = frozenset(("backup", "crash", "recovery", "test_many_points.py"))
"""Places below `tests/` whose claims are about the engine, many times over in each format."""

Case = tuple[tuple[str, int], ...]
"""All parameters of a test but the format, each by name and identity."""


def leave_to_the_long_form(items: Iterable[pytest.Item]) -> None:
    """Mark what the short form does without."""
    tests: dict[str, dict[Case, dict[str, pytest.Function]]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and _is_crossed(item):
            case, disk_format = _case(item)
            cases = tests.setdefault(item.nodeid.partition("[")[0], {})
            cases.setdefault(case, {})[disk_format] = item
    for name, cases in tests.items():
        for number, by_format in enumerate(cases.values(), crc32(name.encode())):
            if by_format.keys() == set(FORMATS):  # else somebody has chosen some of them
                del by_format[list(FORMATS)[number % len(FORMATS)]]
                for item in by_format.values():
                    item.add_marker(pytest.mark.long)


def _is_crossed(item: pytest.Function) -> bool:
    return (
        item.path.relative_to(TESTS).parts[0] in ENGINE
        and not any(item.iter_markers("each_format"))
        and not any(item.iter_markers("long"))  # its formats were chosen with the others' cost
        and "disk_format" in _parameters(item)
    )


def _parameters(item: pytest.Function) -> dict[str, object]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def _case(item: pytest.Function) -> tuple[Case, str]:
    others = _parameters(item).copy()
    disk_format = str(others.pop("disk_format"))
    return tuple((name, id(value)) for name, value in sorted(others.items())), disk_format
