"""Logs of writes made up for who draws them: so many writes over so many seconds, data none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.disks.write_log.log import _LOOKED_AT as LOOKED_AT
from vdbackup.disks.write_log.structs import ENTRY, SuperBlock
from vdbackup.repository.kept_logs import Cause, KeptLog, Protection
from vdbackup.repository.model import RecoveryPoint

SESSION = "20260301-120000-abcde{number}"
NS = 1_000_000_000


def make_log(
    folder: Path,
    point: RecoveryPoint,
    writes: int,
    *,
    flush_each: int = 2,
    seconds: Sequence[float] = (1.0, 2.0, 3.0),
    number: int = 0,
    ended: str = "",
) -> KeptLog:
    """A log behind a point, with a flush behind each second write (or whatever) of them.

    They came in equal parts by each of `seconds` after its beginning, looked at a second before;
    `ended` is why it goes on no more.
    """
    began = datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(hours=point.sequence, minutes=5)
    after = began + timedelta(seconds=max(seconds, default=1.0))
    kept = KeptLog.of(
        folder,
        Protection(
            SESSION.format(number=number),
            point.id,
            f"laptop #{point.sequence}",
            began.isoformat(),
            point.virtual_size,
            ended=after.isoformat() if ended else None,
            why=ended,
            cause=Cause.STORAGE if ended else "",
        ),
    )
    each = np.arange(writes + writes // flush_each) % (flush_each + 1)
    headers = np.zeros(len(each), ENTRY)
    headers["flags"] = np.where(each == flush_each, 1, 0)
    headers["sectors"] = np.where(each == flush_each, 0, 1)
    headers["sector"] = np.where(each == flush_each, 0, 64 + np.arange(len(each)) % 4096)
    places = 512 * np.cumsum(np.append(1, 1 + headers["sectors"].astype(np.int64)))
    with kept.path.open("xb") as file:
        file.write(SuperBlock(len(headers), 512).pack())
        seen = np.linspace(0, len(headers) - 1, min(len(headers), LOOKED_AT)).astype(int)
        for place in np.unique(seen):  # of the others a hole is enough: the index has them
            file.seek(int(places[place]))
            file.write(headers[place].tobytes())
        file.truncate(int(places[-1]))
    with closing(IndexWriter(kept.index)) as index:
        for part, second in zip(np.array_split(headers, len(seconds) or 1), seconds, strict=False):
            until = round((began.timestamp() + second) * NS)
            index.note(part.tobytes(), until - NS, until)
    kept.save()
    return kept
