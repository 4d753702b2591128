"""Kills the real program at random moments: `python -m tests.crash.kills [--rounds N]`.

A round starts `vdbackup` on a repository of several points, kills it with SIGKILL, and does what a
user would do then: lists the points, gives the command again, at times repairs, and backs up. Each
time every point is read. 200 rounds of each format if nothing is said; ends with 1 where a point
was lost or wrong. A round's number chooses what is killed and when, as far as the machine is as
fast again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.backup.lab import Lab
from tests.crash.damage import lose_the_catalogue
from tests.crash.remains import Figures, Remains, Wrong, sets_of
from tests.crash.watch import Watch
from tests.noise import noise
from tests.oracles import readers
from vdbackup.disks.disk import FINE_UNIT, UNIT
from vdbackup.disks.formats import FORMATS
from vdbackup.repository.files import PARTIAL
from vdbackup.repository.journal import JOURNAL_NAME
from vdbackup.repository.repository import Repository

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
SIZE = 24 * MIB
"""Bytes of the disk: enough for a merge of a layer to take as long as starting Python."""
REPAIRED, SAMPLED, BY_ALL = 3, 4, 8
"""Every how many rounds there is a repair, libraries read each point, and programs the newest."""
LIMIT = 300
"""Seconds that a command may take on a busy machine."""

Sequences = dict[str, list[int]]
"""Of each set the numbers of its points."""


# ------------------------------------------------------------------------------- what is killed


@dataclass(frozen=True)
class Work:
    """A command that is killed.

    Attributes:
        arguments: of the command, without the repository.
        concerned: numbers of the points that need not read right until somebody opens the set.
        prepare: what comes before.
        opened_by: the command that a user gives next.
    """

    name: str
    arguments: Callable[[Lab], list[object]]
    concerned: frozenset[int] = frozenset()
    prepare: Callable[[Lab], None] = lambda lab: None
    opened_by: str = "list"


def _backup(*more: object) -> Callable[[Lab], list[object]]:
    return lambda lab: ["backup", lab.image, "--set", "disk", *more]


def _said(*arguments: object) -> Callable[[Lab], list[object]]:
    return lambda lab: [*arguments]


def _convert(lab: Lab) -> list[object]:
    names = list(FORMATS)
    other = names[(names.index(lab.disk_format) + 1) % len(names)]
    return ["convert", "--set", "disk", "--format", other, "--to", "new"]


def _adopt(lab: Lab) -> list[object]:
    return ["adopt", lab.folder / "elsewhere" / lab.file("0004-incremental"), "--set", "new"]


def _chain_elsewhere(lab: Lab) -> None:
    (lab.folder / "elsewhere").mkdir()
    for path in lab.set_folder.glob(f"*.{lab.disk_format}"):
        os.link(path, lab.folder / "elsewhere" / path.name)


_CUT_OFF = """
import sys
from tests.crash.faults import power_cut
from vdbackup import cli
with power_cut(12):
    cli.main(sys.argv[1:])
"""


def _begun(sequence: int) -> Callable[[Lab], None]:
    """A merge that was cut off while it copied, in a process that is gone."""

    def prepare(lab: Lab) -> None:
        command = [sys.executable, "-c", _CUT_OFF, "merge", "-r", lab.repository.path, sequence]
        subprocess.run([*map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        assert lab.set.journal is not None

    return prepare


CHAIN = frozenset((1, 2, 3, 4))
WORKS = [
    Work("backup", _backup()),
    Work("merge into the full", _said("merge", 2), CHAIN),
    Work("backup --keep 3", _backup("--keep", 3), CHAIN | {5}),
    Work("delete a leaf", _said("delete", 4), frozenset((4,))),
    Work("convert", _convert),
    Work("adopt", _adopt, prepare=_chain_elsewhere),
    Work("list, which finishes a merge", _said("list"), CHAIN, _begun(3)),
    Work("repair without a catalogue", _said("repair"), prepare=lose_the_catalogue,
         opened_by="repair"),
    Work("backup --type full", _backup("--type", "full")),
    Work("merge the newest", _said("merge", 4), CHAIN),
    Work("merge into an incremental", _said("merge", 3), CHAIN),
    Work("delete from the middle", _said("delete", 3), CHAIN),
    Work("backup, which finishes a merge", _backup(), CHAIN, _begun(2)),
    Work("repair, which finishes a merge", _said("repair"), CHAIN, _begun(4)),
]  # fmt: skip


def five_points(folder: Path, disk_format: str, unit: int = UNIT) -> Lab:
    """1 <- 2 <- 3 <- 4 and a full 5 of a disk that has changed since; fulls in units of `unit`."""
    lab = Lab(folder, SIZE, disk_format=disk_format, unit=unit)
    lab.poke(0, noise(8 * MIB, 1))
    lab.backup()
    for sequence, place in enumerate((2, 9, 5), 2):
        lab.poke(place * MIB, noise(3 * MIB, sequence))
        lab.poke(-512 * sequence, noise(512, sequence))
        lab.backup()
    lab.backup("full")
    lab.poke(4 * MIB + 512, noise(5 * MIB, 6))
    return lab


# ---------------------------------------------------------------------------------- the program


def vdbackup(lab: Lab, arguments: list[object]) -> subprocess.Popen[bytes]:
    """The real program at work on the lab's repository, with a home of its own."""
    home = str(lab.folder / "home")
    own = {f"VDBACKUP_{name}_DIR": home for name in ("CONFIG", "DATA", "LOG")}
    return subprocess.Popen(
        [sys.executable, "-m", "vdbackup", *map(str, arguments), "-r", str(lab.repository.path)],
        env={**os.environ, **own},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def done(lab: Lab, *arguments: object, allowed: tuple[int, ...] = (0,)) -> str:
    """What a command printed; raises Wrong if it failed."""
    process = vdbackup(lab, list(arguments))
    out, err = process.communicate(timeout=LIMIT)
    if process.returncode not in allowed:
        said = err.decode(errors="replace").strip()
        raise Wrong(f"vdbackup {arguments[0]} ended with {process.returncode}: {said}")
    return out.decode()


@dataclass(frozen=True)
class Usual:
    """A run that nobody kills.

    Attributes:
        seconds: it took.
        working: of those from the first change to the end.
        changes: of files.
        after: the points that there are then.
    """

    seconds: float
    working: float
    changes: int
    after: Sequences

    @classmethod
    def of(cls, work: Work, lab: Lab) -> Usual:
        """Run it; raises Wrong if it fails."""
        start = time.monotonic()
        with Watch(lab.repository.path) as watch:
            process = vdbackup(lab, work.arguments(lab))
            watch.wait(process, sys.maxsize, start + LIMIT)
            out, err = process.communicate()
            end = time.monotonic()
        if process.returncode not in (0, 3):
            raise Wrong(f"not even undisturbed: {(out + err).decode(errors='replace')}")
        if watch.first is None:
            raise Wrong(f"it changed nothing: {(out + err).decode(errors='replace')}")
        return cls(end - start, end - watch.first, watch.count, sequences(lab.repository))


def killed(work: Work, lab: Lab, usual: Usual, rng: random.Random, manner: int) -> tuple[bool, int]:
    """Whether the program was killed before it ended, and how many changes there had been.

    In one round of five at any moment since its start; in two after some number of changes, in two
    after some part of the time from the first change to the end.
    """
    start = time.monotonic()
    with Watch(lab.repository.path) as watch:
        process = vdbackup(lab, work.arguments(lab))
        if manner == 0:
            watch.wait(process, sys.maxsize, start + rng.uniform(0, usual.seconds))
        elif manner <= 2:
            watch.wait(process, rng.randint(1, usual.changes), start + LIMIT)
            watch.wait(process, sys.maxsize, time.monotonic() + rng.uniform(0, 0.002))
        else:
            watch.wait(process, 1, start + LIMIT)
            until = time.monotonic() + rng.uniform(0, usual.working)
            watch.wait(process, sys.maxsize, until)
        process.kill()
        process.communicate()
        watch.read()
    return process.returncode < 0, watch.count


# ----------------------------------------------------------------------------------- the rounds


@dataclass
class Rounds:
    """What was tried.

    Attributes:
        before, during, after: rounds in which the kill came before the first change, between it
            and the end of the process, and too late.
        unfinished: of those during, how many left a journal or something half written.
        faults: a line for each round in which something did not hold.
    """

    before: int = 0
    during: int = 0
    after: int = 0
    unfinished: int = 0
    faults: list[str] = field(default_factory=list)
    read: Figures = field(default_factory=Figures)

    def __str__(self) -> str:
        count = self.before + self.during + self.after
        return (
            f"{count} rounds, killed before the first change {self.before}, at work {self.during} "
            f"({self.unfinished} left something unfinished), too late {self.after}; "
            f"{self.read.points} points right, {self.read.samples} by other readers, "
            f"{len(self.faults)} faults"
        )


def sequences(repository: Repository) -> Sequences:
    """The numbers of the points that are offered, set by set."""
    return {each.name: [point.sequence for point in each.points] for each in sets_of(repository)}


class Round:
    """What follows one kill."""

    def __init__(self, work: Work, lab: Lab, usual: Usual, number: int, rounds: Rounds) -> None:
        self._work, self._lab, self._usual = work, lab, usual
        self._number, self._rounds = number, rounds
        self._before = sequences(lab.repository)
        self._known: set[object] = set()  # files that were read and have not changed since
        self._moments = dict(enumerate(lab.moments.values(), 1))

    def run(self, rng: random.Random) -> None:
        """Kill, and check; raises Wrong."""
        was_killed, changes = killed(self._work, self._lab, self._usual, rng, self._number % 5)
        self._count(was_killed, changes)
        step = "as it is"
        try:
            self._check_points(self._work.concerned)
            step = "opened"
            done(self._lab, self._work.opened_by)
            self._check()
            step = "the command again"
            self._again()
            if self._number % REPAIRED == 0:
                step = "repaired"
                done(self._lab, "repair")
                self._check()
            if self._number % SAMPLED == 0:
                self._remains().ask_others()
            step = "backed up"
            self._back_up()
        except Exception as error:
            raise Wrong(f"{step}: {type(error).__name__}: {error}") from error

    def _count(self, was_killed: bool, changes: int) -> None:
        rounds = self._rounds
        if not was_killed:
            rounds.after += 1
        elif not changes:
            rounds.before += 1
        else:
            rounds.during += 1
            left = [*self._lab.repository.path.rglob("*")]
            rounds.unfinished += any(
                path.name == JOURNAL_NAME or path.name.endswith(PARTIAL) for path in left
            )

    # ------------------------------------------------------------------ what must hold

    def _remains(self) -> Remains:
        """The repository; a point with a new id is told by its number."""
        lab = self._lab
        last = max(self._moments)
        newest = {last + 1: lab.image, last + 2: lab.image}
        for backup_set in sets_of(lab.repository):
            for point in backup_set.points:
                if point.id not in lab.moments:
                    lab.moments[point.id] = (self._moments | newest)[point.sequence]
        return Remains(lab, lab.repository.path, lab.overlays, self._rounds.read, self._known)

    def _check_points(self, concerned: frozenset[int] = frozenset()) -> None:
        self._remains().check_points(concerned)

    def _check(self) -> None:
        """All points are right, and they are those of before, of afterwards, or on the way.

        No layer waits for a repair.
        """
        self._check_points()
        self._remains().check_listed()
        found = sequences(self._lab.repository)
        listed = json.loads(done(self._lab, "list", "--json"))["sets"]
        assert found == {s["name"]: [p["sequence"] for p in s["points"]] for s in listed}
        assert not any(each.journal for each in sets_of(self._lab.repository)), "a journal is left"
        for name, after in self._usual.after.items():
            before, now = self._before.get(name), found.get(name)
            if before is None or now is None:  # a new set is there as a whole or not at all
                assert now in (before, after), f"{name}: {now}"
            else:
                known = {*before} | {*after}
                assert {*before} & {*after} <= {*now} <= known, f"{name}: {now}"

    def _again(self) -> None:
        """What the user wanted can be had after all."""
        if sequences(self._lab.repository) == self._before != self._usual.after:
            done(self._lab, *self._work.arguments(self._lab), allowed=(0, 3))
            self._check_points()
            found = sequences(self._lab.repository)
            assert found == self._usual.after, f"{found}, and not {self._usual.after}"

    def _back_up(self) -> None:
        lab = self._lab
        done(lab, *_backup()(lab))
        newest = lab.set.points[-1]
        lab.moments[newest.id] = lab.image
        self._check_points()
        lab.check_files()
        if self._number % BY_ALL == 0:
            readers.assert_holds(lab.layer(newest), lab.image, lab.disk_format)


class Bench:
    """The repositories of one format that the rounds begin with."""

    def __init__(self, folder: Path, disk_format: str, unit: int) -> None:
        self._folder = folder
        self._lab = five_points(folder, disk_format, unit)
        self._load = self._saved("start")
        self._ready: dict[str, tuple[Callable[[], None], Usual]] = {}

    def _saved(self, name: str) -> Callable[[], None]:
        (self._folder / "saved" / name).mkdir(parents=True)
        return self._lab.save(self._folder / "saved" / name)

    def round(self, number: int, rounds: Rounds) -> None:
        """Begin anew, kill, and check; a fault goes to `rounds`."""
        work = WORKS[number % len(WORKS)]
        try:
            if work.name not in self._ready:
                self._ready[work.name] = self._made_ready(work)
            load, usual = self._ready[work.name]
            load()
            rng = random.Random(f"{self._lab.disk_format} {number}")
            Round(work, self._lab, usual, number, rounds).run(rng)
        except Wrong as error:
            rounds.faults.append(f"{self._lab.disk_format}, round {number}, {work.name}: {error}")

    def _made_ready(self, work: Work) -> tuple[Callable[[], None], Usual]:
        self._load()
        work.prepare(self._lab)
        load = self._saved(work.name)
        usual = Usual.of(work, self._lab)
        return load, usual


def tried(folder: Path, disk_format: str, numbers: range, unit: int = UNIT) -> Rounds:
    """Those rounds, of points whose fulls are kept in units of so many bytes."""
    rounds = Rounds()
    bench = Bench(folder, disk_format, unit)
    for number in numbers:
        bench.round(number, rounds)
    return rounds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.crash.kills")
    parser.add_argument("--rounds", type=int, default=200, help="of each format")
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--format", choices=FORMATS, action="append")
    parser.add_argument("--fine", action="store_true", help="in units of 8 KiB")
    arguments = parser.parse_args()
    unit = FINE_UNIT if arguments.fine else UNIT
    wrong = 0
    for disk_format in arguments.format or FORMATS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            numbers = range(arguments.first, arguments.first + arguments.rounds)
            rounds = tried(Path(folder), disk_format, numbers, unit)
        print(f"{disk_format}: {rounds}, {time.monotonic() - start:.0f} s", flush=True)
        for fault in rounds.faults:
            print("   ", fault, flush=True)
        wrong += len(rounds.faults)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
