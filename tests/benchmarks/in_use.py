"""What it costs to back up volumes in use: `python -m tests.benchmarks.in_use FOLDER`.

    python -m tests.benchmarks.in_use FOLDER [--rounds 5] [--gib 1 16 64 256] [--scan-to 16]
        [--work NAME ...] [--json FILE]

As root. FOLDER holds sparse images and repositories: some 2 GiB. Three pieces of work:

- `writer`: what a writer's own writes cost while its disk is tracked, against the same without, in
  turn: a process's processor time for writes past the page cache (the tracker's program runs in the
  context of who writes), and what the kernel itself counts of the program.
- `freeze`: how long ext4, XFS and Btrfs are frozen while nobody writes, while two programs write
  now and then, and while they write as fast as they can.
- `size`: an incremental of a fixed change (64 MiB) over the size of the disk: of what is tracked,
  of the same where nothing is and all blocks are compared (`scan`), and by borg and restic where
  they are installed, which read the device, too. Each in a process of its own.

What counts is processor time: the clock says what else the machine does, and is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import product
from pathlib import Path

from tests.agent.mounts import MIB, image
from tests.agent.trackers import own_trackers
from tests.backup.in_use.devices import back_up as back_up_all
from tests.backup.in_use.devices import back_up_used, written_to
from tests.sources.loops import loop, mounted, run
from vdbackup.agent import bpf, pins, tracking
from vdbackup.consistency import Consistency, How
from vdbackup.errors import NotFrozen
from vdbackup.repository.repository import Repository
from vdbackup.sources.moment import Wanted

WRITES = 3_000
DISK = 256
"""MiB of the disk, in memory, whose writer is measured: no storage is waited for."""
CHANGE = 64 * MIB
LOADS = {"idle": None, "medium": 0.1, "full": 0.0}
"""How long each of two programs that write rests between two steps, in seconds; None: none does."""
KINDS = ("ext4", "xfs", "btrfs")
OPTIONS = {"ext4": ("-o", "nodiscard"), "xfs": (), "btrfs": ("-o", "nodiscard")}
SPARSE = ("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1")
_PROG_GET_FD_BY_ID = 13
"""A command of bpf(2)."""
Row = dict[str, object]


def cost(work: Callable[[], object]) -> tuple[float, float, object]:
    """Processor seconds and seconds of work in a process of its own, and what it says."""
    reader, writer = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            os.write(writer, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as answer:
        said = answer.read()
    _, status, used = os.wait4(child, 0)
    assert status == 0, "the work failed"
    return used.ru_utime + used.ru_stime, time.monotonic() - begun, json.loads(said or b"null")


def write_at_random(device: Path) -> None:
    """Pages past the page cache, all over a device."""
    with ExitStack() as stack:
        fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
        stack.callback(os.close, fd)
        page = stack.enter_context(mmap.mmap(-1, 4096))
        pages = os.lseek(fd, 0, os.SEEK_END) // 4096
        page[:] = os.urandom(4096)
        for number in range(WRITES):
            os.pwrite(fd, page, number * 7919 % pages * 4096)


def overhead(folder: Path, rounds: int) -> list[Row]:
    """A writer's processor time with tracking and without, in turn."""
    size = f"size={DISK + 16}m"
    with (
        mounted("tmpfs", folder / "memory", "-t", "tmpfs", "-o", size) as memory,
        loop(image(memory / "disk.img", DISK)) as device,
    ):
        write_at_random(device)  # no block is new afterwards
        taken: dict[bool, list[float]] = {True: [], False: []}
        for number in range(2 * rounds):
            tracked = number % 2 == 1
            if tracked:
                tracking.track(device).close()
            taken[tracked].append(cost(lambda: write_at_random(device))[0])
            if tracked:
                tracking.untrack(device)
        ratios = [on / off for on, off in zip(taken[True], taken[False], strict=True)]
        with_, without = (statistics.median(taken[each]) / WRITES * 1e6 for each in (True, False))
        row: Row = {
            "work": "writer",
            "writes": WRITES,
            "cpu_us_untracked": round(without, 2),
            "cpu_us_tracked": round(with_, 2),
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(each, 3) for each in ratios],
            "ns_of_a_run": of_the_kernel(device),
        }
    return [row]


def of_the_kernel(device: Path) -> float:
    """Nanoseconds of one run of one of the tracker's programs, as the kernel counts them.

    Each block event on the computer runs three copies of it, of which at least two end at once.
    """
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = switch.read_text()
    switch.write_text("1")
    try:
        tracking.track(device).close()
        write_at_random(device)
        times, runs = zip(*map(_run_time, pins.BPFFS.rglob("*")), strict=True)
    finally:
        tracking.untrack(device)
        switch.write_text(before)
    return round(sum(times) / sum(runs), 1)


def _run_time(pin: Path) -> tuple[int, int]:
    """Nanoseconds and runs of the program that a pin is a link to; of any other pin none."""
    try:
        link = bpf.open_pin(pin)
    except OSError:  # a folder, or what the kernel itself has put there
        return 0, 0
    program = _fields(link).get("prog_id")
    os.close(link)
    if program is None:
        return 0, 0
    fd = bpf._bpf(_PROG_GET_FD_BY_ID, struct.pack("<III", int(program), 0, 0))
    fields = _fields(fd)
    os.close(fd)
    return int(fields["run_time_ns"]), int(fields["run_cnt"])


def _fields(fd: int) -> dict[str, str]:
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def freezes(folder: Path, rounds: int) -> list[Row]:
    """How long a file system is frozen while programs write to it, of each kind and load."""
    rows = []
    for kind, (load, pause) in product(KINDS, LOADS.items()):
        with tempfile.TemporaryDirectory(dir=folder) as name, ExitStack() as stack:
            here = Path(name)
            device = stack.enter_context(loop(image(here / "disk.img", 768, kind)))
            place = stack.enter_context(mounted(device, here / "mount", *OPTIONS[kind]))
            tracking.track(device).close()
            stack.callback(tracking.untrack, device)
            repository = Repository.create(here / "repository")
            if pause is not None:
                stack.enter_context(written_to(place, pause))
            begun, before = time.monotonic(), _written(device)
            held = list(frozen(repository, device, rounds))
            took, written = time.monotonic() - begun, _written(device) - before
        times = [each.frozen_ms or 0 for each in held]
        rows.append(
            {
                "work": "freeze",
                "file_system": kind,
                "load": load,
                "written_mib_s": round(written / MIB / took, 1),
                "median_ms": round(statistics.median(times)) if times else None,
                "most_ms": max(times, default=None),
                "rounds": [each.rounds for each in held],
                "given_up": rounds - len(held),
            }
        )
        sys.stderr.write(f"{rows[-1]}\n")
    return rows


def frozen(repository: Repository, device: Path, times: int) -> Iterator[Consistency]:
    """Back a device up so many times; how each point is of one moment, where it is."""
    for _ in range(times):
        with suppress(NotFrozen):
            point = back_up_used(repository, device, consistency=Wanted.FROZEN).point
            assert point.reading is not None
            assert point.reading.consistency.how is How.FROZEN
            yield point.reading.consistency


def _written(device: Path) -> int:
    """Bytes that the kernel has counted."""
    return int(Path(f"/sys/class/block/{device.name}/stat").read_text().split()[6]) * 512


def over_size(folder: Path, gib: int, rounds: int, *, scans: bool) -> list[Row]:
    """An incremental of a fixed change in a disk of that size, by each of those that can."""
    rows = []
    ways = ["tracked", *(("scan", "borg", "restic") if scans else ())]
    for way in ways:
        if way in ("borg", "restic") and shutil.which(way) is None:
            continue
        with tempfile.TemporaryDirectory(dir=folder) as name, ExitStack() as stack:
            here = Path(name)
            disk = image(here / "disk.img", gib << 10)
            device = stack.enter_context(loop(disk))
            run(*SPARSE, device)
            place = stack.enter_context(mounted(device, here / "mount", "-o", "nodiscard"))
            if way == "tracked":
                tracking.track(device).close()
                stack.callback(tracking.untrack, device)
            make = _maker(way, here, device)
            change(place, 0)
            cost(make)
            taken = []
            for number in range(1, rounds + 1):
                change(place, number)
                taken.append(cost(make))
            cpu, clock, read = zip(*taken, strict=True)
            rows.append(
                {
                    "work": "size",
                    "way": way,
                    "gib": gib,
                    "cpu_s": round(statistics.median(cpu), 2),
                    "clock_s": round(statistics.median(clock), 2),
                    "read_mib": read[-1],
                }
            )
            sys.stderr.write(f"{rows[-1]}\n")
    return rows


def change(place: Path, number: int) -> None:
    """Write the same files anew, durably."""
    with (place / "changed").open("wb") as file:
        for _ in range(CHANGE // MIB):
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())


def _maker(way: str, here: Path, device: Path) -> Callable[[], object]:
    """What makes one backup of a device, and says how many MiB it has read, where it does."""
    store = here / "repository"
    if way in ("tracked", "scan"):
        repository = Repository.create(store)
        back_up = back_up_used if way == "tracked" else back_up_all

        def ours() -> object:
            reading = back_up(repository, device).point.reading
            assert reading is not None
            return (reading.read_bytes or 0) >> 20

        return ours
    secret = {**os.environ, "RESTIC_PASSWORD": "x", "BORG_BASE_DIR": str(here / "borg")}
    if way == "borg":
        first = ["borg", "init", "-e", "none", str(store)]
        command = [
            "borg",
            "create",
            "--read-special",
            "-C",
            "lz4",
            f"{store}::{{now}}",
            str(device),
        ]
        given = None
    else:
        first = ["restic", "--no-cache", "-q", "-r", str(store), "init"]
        command = ["restic", "--no-cache", "-q", "-r", str(store), "backup", "--stdin"]
        given = device
    subprocess.run(first, env=secret, check=True)

    def theirs() -> object:
        with open(given or os.devnull, "rb") as source:
            subprocess.run(command, env=secret, check=True, stdin=source)
        return None

    return theirs


def markdown(rows: list[Row]) -> str:
    """A table for each piece of work."""
    parts = []
    for work in dict.fromkeys(row["work"] for row in rows):
        own = [row for row in rows if row["work"] == work]
        head = [key for key in own[0] if key != "work"]
        lines = [head, ["---"] * len(head), *([str(row[key]) for key in head] for row in own)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"{work}\n\n{table}")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gib", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--scan-to", type=int, default=16, help="GiB that all of is read")
    works = ("writer", "freeze", "size")
    parser.add_argument("--work", choices=works, action="append", help="all if left out")
    parser.add_argument("--json", type=Path, help="a file that the figures are written to")
    options = parser.parse_args()
    wanted, rows = options.work or works, []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        with own_trackers(folder / "bpf"):
            if "writer" in wanted:
                rows += overhead(folder, options.rounds)
            if "freeze" in wanted:
                rows += freezes(folder, options.rounds)
            if "size" in wanted:
                for gib in options.gib:
                    scans = gib <= options.scan_to
                    rows += over_size(folder, gib, options.rounds, scans=scans)
    print(markdown(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
