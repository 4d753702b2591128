"""What `sizes` and `points` have found, drawn: `python -m tests.benchmarks.charts OUT.svg ...`.

Both axes are logarithmic, and each piece of work has a line. The files are theirs (`--json`), each
of one format.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 96, 34, 40
_COLOURS = (
    *("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910"),
    *("#34495e", "#16a085", "#7f5539", "#c71585"),
)
_GAP = 13
"""Pixels between two names at the lines' ends, at least."""


Row = dict[str, object]


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: what it shows.
        unit, value_unit: of the horizontal axis, and of the vertical one.
        lines: of each name the points, by the horizontal place.
    """

    title: str
    unit: str
    value_unit: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def drawn(panels: Sequence[Panel], note: str) -> str:
    """The charts side by side, with a note below."""
    width, height = WIDTH * len(panels), HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        '<g font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    names = dict.fromkeys(name for panel in panels for name in panel.lines)
    colours = dict(zip(names, _COLOURS * len(names), strict=False))
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * WIDTH} 0)">', *_panel(panel, colours), "</g>"]
    parts += [f'<text x="12" y="{height - 8}" fill="#555555">{escape(note)}</text>', "</g></svg>"]
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, colours: Mapping[str, str]) -> list[str]:
    places = [place for line in panel.lines.values() for place in line]
    across = _Axis.over([x for x, _ in places], _LEFT, WIDTH - _RIGHT)
    up = _Axis.over([y for _, y in places], HEIGHT - _BOTTOM, _TOP)
    parts = [f'<text x="{_LEFT}" y="18" font-size="13">{escape(panel.title)}</text>']
    for value in sorted({x for x, _ in places}):
        x = across.at(value)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 24}" text-anchor="middle">{value:,g}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{panel.unit}</text>')
    unit = panel.value_unit
    for value in up.decades():
        y = up.at(value)
        parts += [
            f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="#dddddd"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g} {unit}</text>',
        ]
    below = -math.inf
    for name, line in _by_end(panel.lines):
        colour = colours[name]
        path = "L".join(f"{across.at(x):.1f} {up.at(y):.1f}" for x, y in line)
        below = max(up.at(line[-1][1]) + 4, below + _GAP)
        parts += [
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>',
            f'<text x="{WIDTH - _RIGHT + 6}" y="{below:.1f}" fill="{colour}">{escape(name)}</text>',
        ]
    return parts


def _by_end(
    lines: Mapping[str, Sequence[tuple[float, float]]],
) -> list[tuple[str, Sequence[tuple[float, float]]]]:
    """The highest end first, as their names stand below each other."""
    return sorted(lines.items(), key=lambda line: -line[1][-1][1])


@dataclass(frozen=True)
class _Axis:
    """A logarithmic one, from one pixel to another."""

    least: float
    most: float
    first: float
    last: float

    @classmethod
    def over(cls, values: Sequence[float], first: float, last: float) -> _Axis:
        least, most = max(min(values), 1e-3), max(values)
        return cls(math.log10(least), math.log10(max(most, least * 10)), first, last)

    def at(self, value: float) -> float:
        share = (math.log10(max(value, 1e-3)) - self.least) / (self.most - self.least)
        return self.first + share * (self.last - self.first)

    def decades(self) -> list[float]:
        """Round values on it: 1, 2 and 5 of each power of ten."""
        powers = range(math.floor(self.least), math.ceil(self.most) + 1)
        each = (digit * 10.0**power for power in powers for digit in (1, 2, 5))
        return [value for value in each if self.least - 1e-9 <= math.log10(value) <= self.most]


def panels(sizes: list[Row], points: list[Row]) -> list[Panel]:
    """Processor time over size and over points, and memory over size."""
    found = []
    for title, unit, key, over, table in (
        ("Processor time over the disk's size", "GiB", "processor", "gib", sizes),
        ("Largest memory over the disk's size", "GiB", "mib", "gib", sizes),
        ("Processor time over points of a chain", "points", "processor", "points", points),
    ):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in table:
            place = float(str(row[over])), float(str(row[key]))
            lines.setdefault(str(row["work"]), []).append(place)
        if lines:
            found.append(Panel(title, unit, "MiB" if key == "mib" else "s", lines))
    return found


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", type=Path, required=True)
    parser.add_argument("--points", type=Path, required=True)
    parser.add_argument("--note", default="", help="when and where that was measured")
    options = parser.parse_args()
    tables = [json.loads(each.read_text()) for each in (options.sizes, options.points)]
    options.out.write_text(drawn(panels(*tables), options.note))


if __name__ == "__main__":
    main()
