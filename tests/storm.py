"""Disks that are written to as hard as can be, backed up again and again: `python -m tests.storm`.

    python -m tests.storm FOLDER [--rounds 100] [--disk ext4 ...] [--json FILE]

As root. Each disk is a loop device over a file in FOLDER (3 GiB are enough), tracked and mounted.
Programs write to each of its file systems without a pause: files in every way that there is
(agent/storm.py), SQLite with each of its journals and mapped memory (backup/in_use/devices.py), and
fio where it is installed. Meanwhile it is backed up; a round is one backup:

- Within its freeze, when the last set has been read, the whole device is read past all caches. The
  restored point has to be that, block by block. All backups but the first of each set read what the
  tracker has marked alone, so a block that it missed would differ.
- The file system's own program finds the restored volumes as sound as it promises of frozen ones,
  and clean after a mount.
- SQLite finds its databases whole, and no transaction torn.

Every few rounds disk and set are new ones. What could not be frozen in time for its writers is no
round, and is counted beside them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from tests.agent import storm
from tests.agent.mounts import FREEZABLE, MAKERS, image
from tests.agent.trackers import own_trackers
from tests.backup.in_use.devices import (
    Digests,
    Frozen,
    assert_clean_after_mount,
    assert_databases_are_whole,
    assert_sound,
    at,
    back_up,
    digests_of,
    restored,
    use,
    written_to,
)
from tests.sources.loops import loop, mounted, run
from vdbackup.agent import tracking
from vdbackup.backup.capture import CaptureResult
from vdbackup.errors import NotFrozen
from vdbackup.repository.model import ChangesFrom
from vdbackup.repository.repository import Repository
from vdbackup.sources.moment import Wanted

SIZES = {"ext4": 320, "xfs": 448, "btrfs": 448}
"""MiB of each disk: its writers do not fill it in the rounds of one set."""
PARTED = "three partitions"
KINDS = (*FREEZABLE, PARTED)
PARTS = {"ext4": 256, "xfs": 400, "btrfs": 400}
PAUSES = (0.0, 0.03)
"""Seconds between two steps of a writer: on three file systems at once they are three times as
many, and a disk that is written to faster than it is read has no point of one moment."""
FIO = [
    "fio", "--name=load", "--thread", "--rw=randwrite", "--bsrange=4k-512k", "--size=32m",
    "--direct=1", "--ioengine=psync", "--time_based", "--runtime=1d", "--rate=40m",
]  # fmt: skip
OF_A_SET = 6
"""Rounds, then disk and set are new ones: the first reads everything, the others what is marked."""


@dataclass
class Tally:
    """What was seen of a kind of disk.

    Attributes:
        rounds: points that were looked at.
        tracked: of these, what read nothing but what was marked.
        changed: blocks that differed between a frozen moment and the next, of the tracked ones.
        read: MiB that these read.
        differing: blocks of restored points that were not what the frozen device held.
        unsound: restored file systems that their own program did not find as promised.
        torn: restored file systems with a database that was not whole.
        given_up: backups that ended without a frozen moment, for the writers' speed.
    """

    rounds: int = 0
    tracked: int = 0
    changed: int = 0
    read: int = 0
    differing: int = 0
    unsound: int = 0
    torn: int = 0
    given_up: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.differing or self.unsound or self.torn)


HEAD = ("disk", *(name for name in Tally.__dataclass_fields__ if name != "said"))


@dataclass
class Disk:
    """One that is written to.

    Attributes:
        device: the whole of it.
        kinds: its file systems; by the number of the partition, 0 for that of the whole disk.
    """

    device: Path
    kinds: dict[int, str]


@contextmanager
def written(stack: ExitStack, folder: Path, kind: str) -> Iterator[Disk]:
    """A new disk of that kind, mounted, and written to until the block ends."""
    kinds = dict(enumerate(FREEZABLE, 1)) if kind == PARTED else {0: kind}
    if kind == PARTED:
        disk = image(folder / "disk.img", sum(PARTS.values()) + 4)
        sizes = "".join(f"size={PARTS[each]}MiB\n" for each in FREEZABLE)
        run("sfdisk", "--quiet", disk, stdin=f"label: gpt\n{sizes}")
        device = stack.enter_context(loop(disk))
        run("partx", "--add", device)
        stack.callback(run, "partx", "--delete", device)
    else:
        device = stack.enter_context(loop(image(folder / "disk.img", SIZES[kind])))
    with ExitStack() as in_use:
        for number, each in kinds.items():
            part = Path(f"{device}p{number}") if number else device
            run(*MAKERS[each][1], part)
            place = folder / f"mount{number}"
            use(in_use, part, place, "-o", "nodiscard")
        tracking.track(device).close()
        for number in kinds:
            place = folder / f"mount{number}"
            in_use.enter_context(written_to(place, PAUSES[kind == PARTED]))
            in_use.enter_context(_written_by_others(place, few=kind == PARTED))
        yield Disk(device, kinds)


@contextmanager
def _written_by_others(folder: Path, *, few: bool) -> Iterator[None]:
    """A storm, and fio where it is there; they are to run until the block ends."""
    commands = [[sys.executable, storm.__file__, str(folder), "1"]]
    if shutil.which("fio") and not few:
        commands.append([*FIO, f"--directory={folder}"])
    with ExitStack() as stack:
        writers = []
        for command in commands:
            writer = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            stack.callback(writer.kill)
            writers.append(writer)
        yield
        assert all(writer.poll() is None for writer in writers), "a writer has ended"


def rounds_of_a_set(folder: Path, kind: str, count: int, tally: Tally) -> None:
    """Back a new disk up so many times while it is written to, and look at each point."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        stack.enter_context(own_trackers(folder / "bpf"))
        frozen = Frozen(patch)
        repository = Repository.create(folder / "repository")
        made: list[tuple[CaptureResult, Digests]] = []
        with written(stack, folder, kind) as disk:
            for _ in range(count):
                try:
                    result = back_up(repository, disk.device, consistency=Wanted.FROZEN)
                except NotFrozen as error:
                    tally.given_up += 1
                    tally.said.append(f"{kind}: {error.title}")
                    continue
                made.append((result, frozen.blocks[-1]))
        before: Digests | None = None
        for result, held in made:
            tally.rounds += 1
            reading = result.point.reading
            assert reading is not None
            if before is not None and reading.changes_from is ChangesFrom.TRACKER:
                tally.tracked += 1
                tally.changed += int((before != held).any(axis=1).sum())
                tally.read += reading.read_bytes >> 20
            before = held
            raw = restored(repository, result.point, folder / "again.raw")
            tally.differing += int((digests_of(raw) != held).any(axis=1).sum())
            _look_at(raw, disk.kinds, folder, tally)
            raw.unlink()


def _look_at(raw: Path, kinds: dict[int, str], folder: Path, tally: Tally) -> None:
    """What the file systems' own programs, and SQLite, say of a restored disk."""
    for number, kind in kinds.items():
        part = at(raw, number, folder) if number else raw
        try:
            assert_sound(part, kind)
            with mounted(part, folder / "restored", "-o", "loop") as inside:
                try:
                    assert_databases_are_whole(inside)
                except AssertionError as error:
                    tally.torn += 1
                    tally.said.append(f"{kind}: {error}")
            assert_clean_after_mount(part, kind)
        except (AssertionError, subprocess.CalledProcessError) as error:
            tally.unsound += 1
            tally.said.append(f"{kind}: {error}")


def table(tallies: dict[str, Tally]) -> str:
    """All of it, as Markdown."""
    rows = [
        [name, *(str(getattr(tally, key)) for key in HEAD[1:])] for name, tally in tallies.items()
    ]
    sums = [str(sum(getattr(each, key) for each in tallies.values())) for key in HEAD[1:]]
    lines = [HEAD, ["---"] * len(HEAD), *rows, ["sum", *sums]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Run the storm; 1 where anything was not as it is to be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=100, help="of each kind of disk")
    parser.add_argument("--disk", choices=KINDS, action="append", help="all if left out")
    parser.add_argument("--json", type=Path, help="a file that the figures are written to")
    options = parser.parse_args()
    tallies = {kind: Tally() for kind in options.disk or KINDS}
    for done in range(0, options.rounds, OF_A_SET):
        for kind, tally in tallies.items():
            with tempfile.TemporaryDirectory(dir=options.folder) as name:
                count = min(OF_A_SET, options.rounds - done)
                rounds_of_a_set(Path(name), kind, count, tally)
            sys.stderr.write(f"{kind}: {tally}\n")
            if options.json:
                figures = {kind: asdict(tally) for kind, tally in tallies.items()}
                options.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.stdout.write(table(tallies) + "\n")
    return int(any(tally.failed for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
