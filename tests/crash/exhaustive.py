"""Every short story, cut off at every write: `python -m tests.crash.exhaustive [--length N] ...`.

Beside the random states of `python -m tests.crash`, all small ones, as CrashMonkey's ACE has them
for file systems (Mohan et al., OSDI 2018: most crash-consistency faults need three operations at
most). A story is a word of up to three letters, each an operation (OPERATIONS) on a set that begins
with a full and an incremental. Its last operation is recorded, and for every change it made:

- lost: everything had reached the storage but that one change, up to the fsync that covers it;
- torn: the same, and of that write the first half of its sectors;
- flipped: it is done and durable, and one bit of what that write left is another one.

After the first two, everything holds that `remains` says. After a flipped bit, every point reads as
it was captured, or is refused, or `verify` finds it; after `repair` the same, and nothing ends in
anything but a sentence. In every AGAIN-th state that leaves something to finish, finishing it is
cut off at every change, too. With `--previous REVISION` (of git) an earlier version opens and reads
a sample of the states.

`--replay "vmdk fim torn 37"` tries one state of one story again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from tests.backup.lab import Lab
from tests.crash import damage, overlays
from tests.crash.folders import copy_tree, shared_files_kept
from tests.crash.record import SECTOR, Change, Choice, Kept, Record, Sync, Write
from tests.crash.remains import Figures, Wrong
from tests.crash.states import States
from tests.crash.stories import Story
from tests.crash.telling import Telling
from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup.backup import adopt, merge, repair
from vdbackup.disks.disk import FINE_UNIT, UNIT
from vdbackup.disks.formats import FORMATS
from vdbackup.errors import VdbackupError
from vdbackup.jobs import Task
from vdbackup.recovery import verify
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository

LOST, TORN, FLIPPED = KINDS = ("lost", "torn", "flipped")
AGAIN = 20
"""Of the states that leave something to finish, one in so many is cut off while it is finished."""
SAMPLED = 25
"""One state in so many is opened by an earlier version, if one is named."""

# ---------------------------------------------------------------------------------- the operations


def _changed(lab: Lab) -> None:
    """The disk changes: another place for each point there ever was."""
    number = lab.set.next_sequence() if lab.repository.names() else 1
    lab.poke(number * BLOCK, noise(BLOCK + 512, number))
    lab.poke(7 * BLOCK, noise(512, number))
    lab.poke((number + 9) * BLOCK, BLOCK)


def _newest(lab: Lab) -> RecoveryPoint:
    return lab.set.points[-1]


def _backup(kind: str) -> Callable[[Lab], None]:
    def act(lab: Lab) -> None:
        lab.backup(kind)

    return act


def _merge(lab: Lab) -> None:
    lab.merge(_newest(lab))


def _delete(lab: Lab) -> None:
    lab.delete(_newest(lab))


def _write_overlay(lab: Lab) -> None:
    overlays.retarget_by_patches(lab, _newest(lab))


def _promote(lab: Lab) -> None:
    session = (lab.folder / "session" / "id").read_text()
    overlays.promote_what_it_wrote(lab, _newest(lab), session)


def _repair(lab: Lab) -> None:
    repair.run(lab.repository.path, Task())


def _elsewhere(lab: Lab) -> Path:
    """Where a copy of the set lies that the next adoption takes."""
    return lab.folder / f"elsewhere{len(lab.repository.names())}"


def _adopt(lab: Lab) -> None:
    old = {point.disk: point for point in lab.set.points}
    tip = _elsewhere(lab) / _newest(lab).disk
    with open_path(tip) as source:
        plan = adopt.plan(lab.repository, source, set_name=_elsewhere(lab).name)
        new = adopt.run(plan, Task())
    chain = lab.set.chain(old[tip.name])
    for point, original in zip(new.points, chain, strict=True):
        lab.moments[point.id] = lab.moments[original.id]


def _before_promotion(lab: Lab) -> None:
    for name in ("session", "seen.raw"):
        path = lab.folder / name
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        path.unlink(missing_ok=True)
    overlays.guest_writes(lab, _newest(lab))
    # a session of its own: an earlier one's id would be an earlier promotion begun anew
    (lab.folder / "session" / "id").write_text(f"202603{len(lab.moments):02d}-120000-abcdef")


def _before_adoption(lab: Lab) -> None:
    copy_tree(lab.set_folder, _elsewhere(lab))


@dataclass(frozen=True)
class Operation:
    """One letter of a story.

    Attributes:
        act: does it.
        prepare: what comes before it, and is not recorded.
        takes_away: whether points may go.
        needs_parent: whether the newest point must have one.
        repairs: whether it is a repair.
    """

    act: Callable[[Lab], None]
    prepare: Callable[[Lab], None] = lambda lab: None
    takes_away: bool = False
    needs_parent: bool = False
    repairs: bool = False


OPERATIONS = {
    "f": Operation(_backup("full"), _changed),
    "i": Operation(_backup("incremental"), _changed),
    "m": Operation(_merge, takes_away=True, needs_parent=True),
    "d": Operation(_delete, takes_away=True),
    "p": Operation(_promote, _before_promotion),
    "a": Operation(_adopt, _before_adoption),
    "o": Operation(_write_overlay),
    "r": Operation(_repair, damage.damage_the_newest, repairs=True),
}
"""Full, incremental, merge the newest, delete the newest, promote, adopt, overlay written, repair.
"""


def words(length: int) -> Iterator[str]:
    """All stories of up to so many operations, the short ones first."""
    for each in range(1, length + 1):
        yield from map("".join, product(OPERATIONS, repeat=each))


class Impossible(Exception):
    """There is nothing to do it with.

    A full cannot be merged, nor what has siblings, and the only point is not deleted.
    """


def _check_possible(lab: Lab, letter: str) -> None:
    if OPERATIONS[letter].needs_parent:
        parent = _newest(lab).parent
        if parent is None or len(lab.set.children(parent)) > 1:
            raise Impossible
    if letter == "d" and len(lab.set.points) < 2:
        raise Impossible


def story(word: str) -> Story:
    """The story that a word tells; raises Impossible when it is prepared."""
    *before, last = list(word)
    operation = OPERATIONS[last]

    def prepare(lab: Lab) -> None:
        for kind in ("full", "incremental"):
            _changed(lab)
            lab.backup(kind)
        for letter in before:
            _check_possible(lab, letter)
            OPERATIONS[letter].prepare(lab)
            OPERATIONS[letter].act(lab)
        _check_possible(lab, last)
        operation.prepare(lab)

    may_be_refused = operation.takes_away or operation.repairs
    concerned = frozenset(range(1, 9)) if may_be_refused else frozenset[int]()
    return Story(word, operation.act, concerned, prepare, repairs=operation.repairs)


# -------------------------------------------------------------------------------------- the states


@dataclass(frozen=True)
class State:
    """One fault in one story: `number` is that of the change in the record."""

    disk_format: str
    word: str
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.disk_format} {self.word} {self.kind} {self.number}"


def faults_of(record: Record) -> Iterator[tuple[str, int]]:
    """Every fault that a record has space for, as (kind, number of the change)."""
    for number, change in enumerate(record.changes):
        if isinstance(change, Sync):
            continue
        yield LOST, number
        if isinstance(change, Write):
            if len(change.data) > SECTOR:
                yield TORN, number
            yield FLIPPED, number


def choice_of(states: States, kind: str, number: int) -> Choice:
    """What had reached the storage: the last moment at which the change can be lost."""
    changes = states.record.changes
    if kind == FLIPPED:
        return Choice(len(changes), dict.fromkeys(states.pending(len(changes)), True))
    cut = _made_durable(changes, number)
    kept: Kept = dict.fromkeys(states.pending(cut), True)
    change = changes[number]
    if kind == TORN and isinstance(change, Write):
        first, end = change.offset // SECTOR, -(-(change.offset + len(change.data)) // SECTOR)
        kept[number] = np.arange(end - first) < (end - first) // 2
    else:
        del kept[number]
    return Choice(cut, kept)


def _made_durable(changes: tuple[Change, ...], number: int) -> int:
    """Where the fsync stands that makes a change durable: until then it can be lost."""
    node = changes[number].node
    later = range(number + 1, len(changes))
    syncs = (n for n in later if isinstance(changes[n], Sync) and changes[n].node is node)
    return next(syncs, len(changes))


class Exhaustive(Telling):
    """A story that was recorded, and the states of every single fault in it."""

    def try_all(self, numbers: Iterable[tuple[str, int]], earlier: Earlier | None) -> list[str]:
        """Check the states of those faults; what does not hold, a line each."""
        found = []
        name = f"{self._lab.disk_format} {self.story.name}"
        with States(self.record, self._folder / "cache") as states:
            for kind, number in numbers:
                if _has_no_name(states, kind, number):
                    continue
                choice = choice_of(states, kind, number)
                self.figures.states += 1
                try:
                    if kind == FLIPPED:
                        self._check_flipped(states, choice, number)
                    else:
                        self._check(states, choice, sample=False)
                        if earlier and self.figures.states % SAMPLED == 1:
                            self._check_by(earlier, states, choice)
                except Wrong as error:
                    found.append(f"{name} {kind} {number}: {error}")
        return found

    @contextmanager
    def _made(self, states: States, choice: Choice) -> Iterator[Path]:
        """The state as a folder whose files are its own."""
        shared, state = self._folder / "shared", self._folder / "state"
        states.make(choice, shared)
        copy_tree(shared, state)
        _remove(shared)
        try:
            yield state
        finally:
            _remove(state)

    def _check_flipped(self, states: States, choice: Choice, number: int) -> None:
        change = self.record.changes[number]
        assert isinstance(change, Write)
        where = _path_of(states, choice, number)
        assert where is not None
        with self._made(states, choice) as state, shared_files_kept():
            path = state / where
            _flip(path, change.offset + len(change.data) // 2)
            try:
                self._check_no_silent_change(Repository(state / "repository", ""))
            except (AssertionError, OSError, ValueError, KeyError, TypeError) as error:
                raise Wrong(f"{path.name}: {type(error).__name__}: {error}") from error

    def _check_no_silent_change(self, repository: Repository) -> None:
        """Before and after a repair, every point reads right, is refused, or is found by verify."""
        for step in ("as it is", "repaired"):
            try:
                merge.recover(repository, Task())
                if step == "repaired":
                    repair.run(repository.path, Task())
                self._check_found(repository, step)
            except VdbackupError:
                continue  # said in a sentence

    def _check_found(self, repository: Repository, step: str) -> None:
        for name in repository.names():
            try:
                verdicts = verify.run(verify.plan(repository, name), Task())
                backup_set = repository.set(name)
            except VdbackupError:
                continue  # said in a sentence
            sound = {verdict.point.id for verdict in verdicts if not verdict.findings}
            for point in backup_set.points:
                if point.id in sound and point.id in self._lab.moments:
                    with backup_set.open_chain(point) as chain:
                        data = bytearray(chain.size)
                        chain.readinto(0, memoryview(data))
                    right = data == self._lab.moments[point.id].read_bytes()
                    assert right, (
                        f"{step}: point {point.sequence} reads wrong, verify found nothing"
                    )
                    self.figures.points += 1

    def _check_by(self, earlier: Earlier, states: States, choice: Choice) -> None:
        """An earlier version opens the state: what it reads is right, or refused in a sentence."""
        with self._made(states, choice) as state:
            for point_id, digest in earlier.reads(state / "repository"):
                if point_id in self._lab.moments:
                    raw = self._lab.moments[point_id].read_bytes()
                    if digest != hashlib.sha256(raw).hexdigest():
                        raise Wrong(f"the earlier version reads {point_id} wrong")
                    self.figures.samples += 1


def _has_no_name(states: States, kind: str, number: int) -> bool:
    return kind == FLIPPED and _path_of(states, choice_of(states, kind, number), number) is None


def _path_of(states: States, choice: Choice, number: int) -> Path | None:
    """Where the file that a change was done to lies in the end; None if it is gone."""
    node = states.record.changes[number].node
    _folders, files = states._files(choice)
    return next((file.path for file in files if file.node is node), None)


def _flip(path: Path, offset: int) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(min(offset, path.stat().st_size - 1))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))
    path.chmod(mode)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


# ------------------------------------------------------------------------------ an earlier version

_READS = """
import hashlib, json, sys
from pathlib import Path
from vdbackup import jobs
from vdbackup.backup import merge
from vdbackup.errors import VdbackupError
from vdbackup.repository.repository import Repository

# until 28 November 2026 there was no task, but what it reports to and what stops it
task = [jobs.Task()] if hasattr(jobs, "Task") else [jobs.silent, jobs.CancelToken()]
for line in sys.stdin:
    repository = Repository(Path(line.rstrip(chr(10))), "")
    found = []
    try:
        merge.recover(repository, *task)
        for backup_set in repository.sets():
            for point in backup_set.points:
                try:
                    with backup_set.open_chain(point) as chain:
                        data = bytearray(chain.size)
                        chain.readinto(0, memoryview(data))
                    found.append((point.id, hashlib.sha256(data).hexdigest()))
                except VdbackupError:
                    pass
    except VdbackupError:
        pass
    print(json.dumps(found), flush=True)
"""
"""What it is told to do: open each repository that it is given, and say what its points hold."""


class Earlier:
    """An earlier version of the program, which opens repositories. A context manager."""

    def __init__(self, revision: str, folder: Path) -> None:
        root = Path(__file__).parents[2]
        archive = folder / "earlier.tar"
        command = ["git", "-C", str(root), "archive", "-o", str(archive), revision, "vdbackup"]
        subprocess.run(command, check=True)
        subprocess.run(["tar", "-x", "-C", folder, "-f", archive], check=True)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _READS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder)},
            cwd=folder,
        )

    def reads(self, repository: Path) -> list[tuple[str, str]]:
        """(id, SHA-256 in hexadecimal digits) of each point that it reads there."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{repository}\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise Wrong("the earlier version ended")
        return [(point, digest) for point, digest in json.loads(line)]

    def close(self) -> None:
        """End it."""
        self._process.communicate()


# ------------------------------------------------------------------------------------ the long form


def tell(
    word: str,
    disk_format: str,
    folder: Path,
    earlier: Earlier | None = None,
    every: int = 1,
    unit: int = UNIT,
) -> tuple[Figures, list[str]]:
    """All states of a story (of every so many one): figures and what does not hold.

    Its fulls are kept in units of so many bytes.

    Raises Impossible where there is nothing to do the word's operations with.
    """
    folder.mkdir()
    telling = Exhaustive(story(word), folder / "told", disk_format, unit)
    faults = list(faults_of(telling.record))
    wrong = telling.try_all(faults[::every], earlier)
    figures = telling.figures
    last = OPERATIONS[word[-1]]
    if last.takes_away or last.repairs:
        for seed in range(0, len(faults), AGAIN * every):
            again = telling.again(folder / str(seed), seed)
            if again is not None:
                wrong += again.try_all(list(faults_of(again.record))[::every], earlier)
                figures.add(again.figures)
    return figures, wrong


def replay(text: str, unit: int) -> list[str]:
    """One state again, as it was printed."""
    disk_format, word, kind, number = text.split()
    with tempfile.TemporaryDirectory() as folder:
        telling = Exhaustive(story(word), Path(folder) / "told", disk_format, unit)
        return telling.try_all([(kind, int(number))], None)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m tests.crash.exhaustive",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--length", type=int, default=3, help="operations of the longest story")
    parser.add_argument("--format", choices=FORMATS, action="append")
    parser.add_argument("--every", type=int, default=1, help="try one fault in so many")
    parser.add_argument("--previous", metavar="REVISION", help="an earlier version, for git")
    parser.add_argument("--replay", metavar="STATE")
    parser.add_argument("--fine", action="store_true", help="in units of 8 KiB")
    arguments = parser.parse_args()
    unit = FINE_UNIT if arguments.fine else UNIT
    logging.disable()
    if arguments.replay:
        wrong = replay(arguments.replay, unit)
        print("\n".join(wrong) or "It holds.")
        return 1 if wrong else 0
    count = 0
    for disk_format in arguments.format or FORMATS:
        whole, stories, start = Figures(), 0, time.monotonic()
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            earlier = Earlier(arguments.previous, folder) if arguments.previous else None
            for word in words(arguments.length):
                try:
                    figures, wrong = tell(
                        word, disk_format, folder / word, earlier, arguments.every, unit
                    )
                except Impossible:
                    continue
                stories += 1
                whole.add(figures)
                count += len(wrong)
                for line in wrong:
                    print(line, flush=True)
            if earlier:
                earlier.close()
        seconds = time.monotonic() - start
        print(f"{disk_format}: {stories} stories, {whole}, {seconds:.0f} s", flush=True)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
