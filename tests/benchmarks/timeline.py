"""The window with many points: `xvfb-run python -m tests.benchmarks.timeline [--points 10000]`.

Processor time until the points are first seen, of a frame in which the cursor is dragged, and of a
sort of the table by each column: the worst of some rounds, beside what each may take. Ends with 1
where one takes longer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication

from tests.gui.points import many
from vdbackup.gui import theme
from vdbackup.gui.theme import LIGHT
from vdbackup.gui.timeline.points_table import COLUMNS, PointsTable
from vdbackup.gui.timeline.timeline import Timeline

ROUNDS = 5
FRAMES = 200
LIMITS = {"first paint": 0.35, "frame of a drag": 0.002, "sort": 0.05, "pick all": 0.1}
"""Seconds."""


def timed(work: Callable[[], object]) -> float:
    """Seconds of the processor for something: others may be at work here."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measured(count: int) -> dict[str, float]:
    """What each takes, the worst of what a person would notice; of frames the median."""
    points = many(count)
    found: dict[str, list[float]] = {name: [] for name in LIMITS}
    for _ in range(ROUNDS):
        timeline = Timeline(LIGHT)
        timeline.resize(1100, 600)
        timeline.show()
        QApplication.processEvents()

        def first(timeline: Timeline = timeline) -> None:
            timeline.set_points(points)
            timeline.viewport().repaint()

        found["first paint"].append(timed(first))
        frames = []
        for number in range(FRAMES):
            index = count * number // FRAMES

            def frame(timeline: Timeline = timeline, index: int = index) -> None:
                timeline._go_to(index)
                timeline.viewport().repaint()

            frames.append(timed(frame))
        found["frame of a drag"].append(sorted(frames)[FRAMES // 2])
        found["pick all"].append(timed(partial(timeline.pick, [each.id for each in points])))
        timeline.close()
    table = PointsTable(LIGHT)
    table.set_points(points)
    table.show()
    for column in range(len(COLUMNS)):
        for order in Qt.SortOrder:
            found["sort"].append(timed(partial(table.sortByColumn, column, order)))
    table.close()
    return {name: max(each) for name, each in found.items()}


def main() -> int:
    """Print a line for each; 1 where one takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10_000)
    options = parser.parse_args()
    application = QApplication(["benchmark"])
    theme.apply(application, LIGHT)
    measured(100)  # what is imported and made once
    slow = False
    for name, seconds in measured(options.points).items():
        slow |= seconds > LIMITS[name]
        sys.stdout.write(f"{name:16} {seconds * 1000:8.2f} ms of {LIMITS[name] * 1000:.0f}\n")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
