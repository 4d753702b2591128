"""Where the cursor goes among the moments of a log: by the pointer, and by the keyboard."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Literal

from PySide6.QtCore import Qt

from vdbackup.gui.timeline.bands import Band, Spot

PAGES = 100
"""Steps by the page from one end of a log to the other."""


class Away(enum.Enum):
    """Out of the log."""

    TO_POINT = enum.auto()


TO_POINT: Literal[Away.TO_POINT] = Away.TO_POINT
_DIRECTION = {
    Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1, Qt.Key.Key_PageUp: -1, Qt.Key.Key_PageDown: 1,
}  # fmt: skip
_BY_PAGE = (Qt.Key.Key_PageUp, Qt.Key.Key_PageDown)


def band_above(bands: Sequence[Band], x: float, spot: Spot | None) -> Band | None:
    """The band that runs over `x`: that of the cursor, or else the newest."""
    found = [each for each in bands if each.left <= x <= each.right]
    own = [each for each in found if spot and each.log.session == spot.band.log.session]
    readable = [each for each in found if not each.log.problem]
    return next(iter((*own, *reversed(readable), *found)), None)


def step(
    key: Qt.Key, behind: Sequence[Band], spot: Spot | None, *, by_write: bool
) -> Spot | Literal[Away.TO_POINT] | None:
    """Where a key leads from a moment, or from a point; None where it means nothing.

    Args:
        key: that was pressed with Alt.
        behind: the bands of the point that the cursor is on, or behind.
        spot: the moment that the cursor is on.
        by_write: go by the write, consistent or not; else from one consistent moment to the next.
    """
    readable = [each for each in behind if not each.log.problem]
    if not readable:
        return None
    band = spot.band if spot else readable[-1]
    if key in (Qt.Key.Key_Up, Qt.Key.Key_Down):
        return _in_log_beside(readable, band, -1 if key == Qt.Key.Key_Up else 1)
    if key in (Qt.Key.Key_Home, Qt.Key.Key_End):
        end = band.log.writes if by_write else int(band.log.moments[-1])
        return Spot(band, 0 if key == Qt.Key.Key_Home else end)
    return _along(key, band, spot, by_write=by_write) if key in _DIRECTION else None


def _along(
    key: Qt.Key, band: Band, spot: Spot | None, *, by_write: bool
) -> Spot | Literal[Away.TO_POINT]:
    """Back or forth in a log; before its beginning lies its point."""
    write, direction = spot.write if spot else 0, _DIRECTION[key]
    if direction < 0 and (spot is None or write == 0):
        return TO_POINT
    many = band.log.writes if by_write else len(band.log.moments)
    far = direction * (max(1, many // PAGES) if key in _BY_PAGE else 1)
    if by_write:
        to = min(max(write + far, 0), band.log.writes)
        return Spot.nearest(band, to, later=direction > 0)
    to = band.moment_beside(write, far)
    return Spot(band, to if (to > write) == (direction > 0) else write)


def _in_log_beside(bands: Sequence[Band], band: Band, step: int) -> Spot | None:
    """The last moment of the log that is drawn above or below."""
    rows = [each.row for each in bands]
    if band.row not in rows:
        return None
    other = bands[min(max(rows.index(band.row) + step, 0), len(bands) - 1)]
    return Spot(other, int(other.log.moments[-1])) if other is not band else None
