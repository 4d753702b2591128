"""Side by side with its peers: `python -m tests.benchmarks FOLDER [--format F] [--gib 4] ...`.

Ours and theirs run in turn, as whole processes, with durable output and checked exit codes; what
counts is the median of the ratios, pair by pair, because the machine's speed drifts. FOLDER needs
some five times the size of the source, and three times more for each further format.

QEMU makes no children in VHD and VHDX, and reads none. Where a chain in one of these is at stake,
the peer is what QEMU does with the same chain in QCOW2, or 7-Zip, which reads them.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.oracles import sevenzip
from vdbackup.disks.formats import FORMATS

MIB = 1 << 20
OURS = [sys.executable, "-m", "vdbackup"]


@dataclass
class Contest:
    """One row of the table: `ours` and `theirs` are commands.

    Attributes:
        prepare: what has to be there before each of ours, and of theirs if that has nothing of its
            own; not timed.
        target: the ratio of wall times, ours to theirs, that we want (lower is better).
    """

    name: str
    peer: str
    target: float
    ours: Callable[[], list[str]]
    theirs: Callable[[], list[str]]
    prepare: Callable[[], None] = lambda: None
    prepare_theirs: Callable[[], None] | None = None
    pairs: list[tuple[float, float]] = field(default_factory=list)

    def race(self) -> None:
        """One round of each, in turn."""
        self.prepare()
        os.sync()
        ours = timed(self.ours())
        (self.prepare_theirs or self.prepare)()
        os.sync()
        self.pairs.append((ours, timed(self.theirs())))

    def row(self) -> tuple[str, ...]:
        """Medians of both, of the ratio, and the target."""
        ours, theirs = (statistics.median(times) for times in zip(*self.pairs, strict=True))
        ratio = statistics.median(a / b for a, b in self.pairs)
        return (
            self.name,
            self.peer,
            f"{ours:.2f}",
            f"{theirs:.2f}",
            f"{ratio:.2f}",
            str(self.target),
        )


def timed(command: list[str]) -> float:
    """Seconds of wall time; fails on an exit code that is not 0."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def make_source(path: Path, gib: int) -> None:
    """Half zeros (written, not holes), a quarter random, a quarter text; in pieces of 4 MiB."""
    dice = random.Random(7)
    words = [bytes(dice.choices(range(97, 123), k=dice.randint(2, 9))) for _ in range(5000)]
    with path.open("wb") as file:
        for _ in range(gib * 256):
            text = b" ".join(dice.choices(words, k=170_000))[:MIB].ljust(MIB, b".")
            file.write(bytes(2 * MIB) + dice.randbytes(MIB) + text)
        os.fsync(file.fileno())


def change(path: Path, share: float, seed: int) -> None:
    """Rewrite `share` of the source in pieces of 64 KiB at random places that hold data."""
    dice = random.Random(seed)
    pieces = int(path.stat().st_size * share) >> 16
    with path.open("r+b") as file:
        for _ in range(pieces):
            chunk = dice.randrange(path.stat().st_size // (4 * MIB))
            file.seek(chunk * 4 * MIB + 2 * MIB + dice.randrange(32) * 65536)
            file.write(dice.randbytes(65536))
        os.fsync(file.fileno())


class Arena:
    """The files that the contests of one format share.

    Attributes:
        source: the disk.
        changed: the same with 1 % changed since `before_change` was made of it.
        full, before_change: repositories with one full.
        with_child: a repository with a full and an incremental that changed 5 %.
        out: what the contests write to.
    """

    def __init__(self, folder: Path, gib: int, disk_format: str) -> None:
        """Make in `folder` what is not there yet."""
        self.folder = folder
        self.format = disk_format
        self.source = folder / "source.raw"
        self.out = folder / "out"
        self.out.mkdir(exist_ok=True)
        if not self.source.exists():
            make_source(self.source, gib)
        self.full = folder / f"full-{disk_format}"
        self.layer = self.full / f"source/0001-full.{disk_format}"
        self._back_up(self.source, self.full)
        self.changed = folder / f"changed-{disk_format}.raw"
        self.before_change = folder / f"before-{disk_format}"
        if not self.before_change.exists():
            shutil.copy(self.source, self.changed)
            self._back_up(self.changed, self.before_change)
            change(self.changed, 0.01, 1)
        self.with_child = folder / f"child-{disk_format}"
        if not self.with_child.exists():
            self._make_child()
        self._make_qcow2_chain()

    def _back_up(self, source: Path, repository: Path) -> None:
        if not repository.exists():
            self._capture(source, repository)

    def _capture(self, source: Path, repository: Path) -> None:
        run([*OURS, "backup", str(source), "-r", str(repository), "--format", self.format])

    def _make_child(self) -> None:
        moving = self.folder / "moving.raw"
        shutil.copy(self.source, moving)
        self._capture(moving, self.with_child)
        change(moving, 0.05, 2)
        self._capture(moving, self.with_child)

    def _make_qcow2_chain(self) -> None:
        """The same chain for qemu-img: `rebase` stores only what differs from the base."""
        base, child = self.folder / "base.qcow2", self.folder / "child.qcow2"
        if not base.exists():
            run(["qemu-img", "convert", "-O", "qcow2", str(self.source), str(base)])
        if not child.exists():
            create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "moving.raw", "-F", "raw"]
            run([*create, child.name], cwd=self.folder)
            rebase = ["qemu-img", "rebase", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2"]
            run([*rebase, child.name], cwd=self.folder)

    def chain(self, disk_format: str) -> list[Path]:
        """A base and a child that holds 5 % of it: our own layers, or what qemu-img made."""
        if disk_format == self.format:
            layers = self.with_child / "moving"
            return [layers / f"{name}.{disk_format}" for name in ("0001-full", "0002-incremental")]
        return [self.folder / "base.qcow2", self.folder / "child.qcow2"]

    def clear(self) -> None:
        """Empty the folder that the contests write to."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()

    def copy_before_change(self) -> None:
        """A repository with one full, for an incremental of what has changed since."""
        self.clear()
        shutil.copytree(self.before_change, self.out / "repository")

    def copy_child(self) -> None:
        """A repository with a full and a child."""
        self.clear()
        shutil.copytree(self.with_child, self.out / "repository")

    def copy_chain(self, disk_format: str) -> None:
        """The same chain for qemu-img."""
        self.clear()
        for path in self.chain(disk_format):
            shutil.copy(path, self.out / path.name)
            (self.out / path.name).chmod(0o600)


def run(command: list[str], cwd: Path | None = None) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=cwd)


def durable(command: list[str], *files: Path) -> list[str]:
    """A command whose output is made durable too, as ours is, in the same timed process group."""
    return [
        "sh",
        "-c",
        '"$@" && sync -- ' + " ".join(f"'{file}'" for file in files),
        "sh",
        *command,
    ]


def contests(arena: Arena) -> list[Contest]:
    """All rows of one format's table."""
    out, source, changed = arena.out, str(arena.source), str(arena.changed)
    repository = ["-r", str(out / "repository")]
    qemu_name = {"vhd": "vpc"}.get(arena.format, arena.format)
    committed = arena.format if arena.format in ("vmdk", "qcow2") else "qcow2"
    full_target = {"vmdk": 0.08, "vhd": 0.40, "vhdx": 0.40, "qcow2": 0.80}[arena.format]

    def converted() -> list[str]:
        target = out / "theirs"
        options = ["-W", "-m", "16"] if arena.format == "qcow2" else ["-t", "none"]
        command = ["qemu-img", "convert", *options, "-O", qemu_name, source, str(target)]
        return durable(command, target)

    def commit() -> list[str]:
        base, child = (out / path.name for path in arena.chain(committed))
        return durable(["qemu-img", "commit", "-q", "-f", committed, str(child)], base)

    def flattened() -> list[str]:
        target, child = out / "theirs.raw", str(arena.chain(arena.format)[-1])
        if arena.format in ("vmdk", "qcow2"):
            command = ["qemu-img", "convert", "-O", "raw", child, str(target)]
        else:
            command = ["sh", "-c", f"{sevenzip.PROGRAM} x -so '{child}' > '{target}'"]
        return durable(command, target)

    def full() -> list[str]:
        return [*OURS, "backup", source, *repository, "--format", arena.format]

    def restore() -> list[str]:
        return [*OURS, "restore", "2", str(out / "ours.raw"), "-r", str(arena.with_child)]

    again = [*OURS, "backup", changed, *repository]
    merge = [*OURS, "merge", "2", *repository]
    verify = [*OURS, "verify", "-r", str(arena.full)]
    compare = ["qemu-img", "compare", "-F", qemu_name, source, str(arena.layer)]
    reader, restore_target = {
        "vmdk": ("convert of the chain", 0.3), "qcow2": ("convert of the chain", 0.7),
    }.get(arena.format, ("7-Zip", 0.7))  # fmt: skip
    return [
        Contest("full", f"convert -O {qemu_name}", full_target, full, converted, arena.clear),
        Contest(
            "merge of 5 %", f"commit ({committed})", 0.8, lambda: merge, commit, arena.copy_child,
            lambda: arena.copy_chain(committed),
        ),
        Contest("restore", reader, restore_target, restore, flattened, arena.clear),
        Contest("verify", "compare", 0.15, lambda: verify, lambda: compare),
        borg(arena, lambda: again),
    ]  # fmt: skip


def borg(arena: Arena, again: Callable[[], list[str]]) -> Contest:
    """An incremental of 1 % against borg's second run; against `cmp` where there is no borg."""
    name, prepare = "incremental, 1 %", arena.copy_before_change
    if shutil.which("borg") is None:
        compare = ["cmp", str(arena.source), str(arena.source)]
        return Contest(name, "cmp (no borg here)", 1.0, again, lambda: compare, prepare)
    os.environ["BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK"] = "yes"
    kept = arena.folder / f"borg-{arena.format}"
    create = ["borg", "create", "--read-special", "-C", "lz4"]
    if not kept.exists():
        run(["borg", "init", "-e", "none", str(kept)])
        run([*create, f"{kept}::first", str(arena.source)])

    def forget_second_run() -> None:  # which is not there before the first race
        forget = ["borg", "delete", f"{kept}::second"]
        subprocess.run(forget, check=False, stderr=subprocess.DEVNULL)

    theirs = [*create, f"{kept}::second", str(arena.changed)]
    return Contest(
        name, "borg, second run", 0.05, again, lambda: theirs, prepare, forget_second_run
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", choices=FORMATS, action="append", help="all if left out")
    parser.add_argument("--work", help="only the rows whose work begins so: merge")
    parser.add_argument("--gib", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = [("format", "work", "peer", "ours (s)", "theirs (s)", "ratio", "target")]
    for disk_format in options.format or FORMATS:
        arena = Arena(options.folder.resolve(), options.gib, disk_format)
        for contest in contests(arena):
            if not contest.name.startswith(options.work or ""):
                continue
            contest.race()
            contest.pairs.clear()  # the first round warms both up
            for _ in range(options.rounds):
                contest.race()
            rows.append((disk_format, *contest.row()))
            print("  ".join(rows[-1]), file=sys.stderr)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
