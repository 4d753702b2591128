"""From a moment to a machine that runs: `python -m tests.benchmarks.moments FOLDER`.

The log is made up: writes of 4 KiB, all over a disk, with a flush behind each tenth of them;
their data are holes, for nobody reads them before the machine runs. The log takes 4 KiB of the
storage for each entry, as each has a block of its own. The times are this process's
processor time, and by the clock until QEMU has begun to run the guest.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tests.backup.lab import Lab
from tests.guests import boot_sector
from vdbackup.disks.write_log.entries import Entries
from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.disks.write_log.structs import ENTRY, SuperBlock
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.recovery.sessions import vm
from vdbackup.repository.kept_logs import KeptLog, Protection

SESSION = "20260101-000000-abcdef"
WRITE = 8
"""Sectors of each write."""


def make_up(lab: Lab, writes: int) -> KeptLog:
    """A log of a machine from the lab's first point, whose first MiB stays as it is."""
    (point,) = lab.set.points
    size = point.virtual_size
    kept = KeptLog.of(
        lab.set.folder,
        Protection(
            SESSION, point.id, "made up", datetime.now(UTC).isoformat(), size, limit=1 << 50
        ),
    )
    choose = np.random.default_rng(1)
    headers = np.zeros(writes + writes // 10, ENTRY)
    headers["flags"][::11] = 1
    targets = choose.integers(2048 // WRITE, size // 512 // WRITE, len(headers))
    headers["sector"] = np.where(headers["flags"] == 1, 0, targets * WRITE)
    headers["sectors"] = np.where(headers["flags"] == 1, 0, WRITE)
    length = 512 * int(1 + len(headers) + headers["sectors"].sum())
    noted = headers.tobytes()
    places = Entries.of(noted, 512, length, size).places.tolist()
    with kept.path.open("xb") as file:
        file.write(SuperBlock(len(headers), 512).pack())
        file.truncate(length)
        file.flush()
        for number, place in enumerate(places):
            at = number * ENTRY.itemsize
            os.pwrite(file.fileno(), noted[at : at + ENTRY.itemsize], place)
    with closing(IndexWriter(kept.index)) as index:
        now = time.time_ns()
        index.note(noted, now, now)
    kept.save()
    return kept


def main() -> None:
    """Make the log, then boot the moment in its middle three times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--writes", type=int, default=1_000_000)
    parser.add_argument("--gib", type=int, default=1)
    options = parser.parse_args()
    lab = Lab(options.folder, options.gib << 30, disk_format="qcow2")
    boot_sector.make(lab.image, boot_sector.say("up"), options.gib << 30)
    lab.backup()
    kept = make_up(lab, options.writes)
    print(f"{kept.read().writes:,} writes to a disk of {options.gib} GiB")
    for round_ in range(3):
        before, clock = time.process_time(), time.monotonic()
        backup_set, moment = lab.repository.find_state(f"1@w{options.writes // 2 + round_}")
        found = time.process_time()
        with vm.start_from_point(
            lab.repository,
            backup_set,
            moment,
            sessions_folder=options.folder / "sessions",
            request=HardwareRequest(controller=Controller.IDE),
        ) as session:
            ran, clocked = time.process_time(), time.monotonic() - clock
            assert session.wait_for_text("up", 120)
        print(f"found {found - before:.2f} s, started {ran - found:.2f} s; clock {clocked:.2f} s")


if __name__ == "__main__":
    main()
