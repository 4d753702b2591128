"""The rows of the table: what we do, and what a peer does instead."""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.arena import OURS, Arena, run
from tests.benchmarks.limits import Limits, Moved
from tests.oracles import sevenzip


@dataclass
class Contest:
    """One row of the table: `ours` and `theirs` are commands.

    Attributes:
        moved: what we have to move at least.
        prepare: what has to be there before each of ours, and of theirs if that has nothing of its
            own; not timed.
        target: the ratio of wall times, ours to theirs, that we want (lower is better).
    """

    name: str
    peer: str
    target: float
    moved: Moved
    ours: Callable[[], list[str]]
    theirs: Callable[[], list[str]]
    prepare: Callable[[], None] = lambda: None
    prepare_theirs: Callable[[], None] | None = None
    pairs: list[tuple[Spent, Spent]] = field(default_factory=list)

    def race(self, settle: Callable[[], None]) -> None:
        """One round of each, in turn; `settle` comes right before each."""
        self.prepare()
        settle()
        ours = timed(self.ours())
        (self.prepare_theirs or self.prepare)()
        settle()
        self.pairs.append((ours, timed(self.theirs())))

    def row(self, limits: Limits, cold: bool) -> Row:
        """The medians."""
        ours, theirs = (Spent.median(spent) for spent in zip(*self.pairs, strict=True))
        ratio = statistics.median(a.wall / b.wall for a, b in self.pairs)
        limit = limits.seconds(self.moved, cold)
        return Row(
            self.name, self.peer, ours.wall, theirs.wall, ratio, self.target, limit,
            ours.wall / limit, ours, theirs,
        )  # fmt: skip


@dataclass(frozen=True)
class Spent:
    """What a command took, with all that it started.

    Attributes:
        wall, processor: seconds; the second is the one to go by on a machine with others.
        written: bytes to storage, as the kernel counts them (getrusage(2), ru_oublock).
    """

    wall: float
    processor: float
    written: int

    @classmethod
    def median(cls, spent: Sequence[Spent]) -> Spent:
        """Of each of them by itself."""
        return cls(
            statistics.median(each.wall for each in spent),
            statistics.median(each.processor for each in spent),
            int(statistics.median(each.written for each in spent)),
        )


@dataclass(frozen=True)
class Row:
    """What came of a contest; times in seconds of wall time.

    Attributes:
        limit: what this machine would take for moving alone.
        distance: ours, as a multiple of that.
        spent, spent_by_them: the medians of all that was measured.
    """

    work: str
    peer: str
    ours: float
    theirs: float
    ratio: float
    target: float
    limit: float
    distance: float
    spent: Spent
    spent_by_them: Spent


def timed(command: list[str]) -> Spent:
    """What a command takes; fails on an exit code that is not 0."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(wall, processor, (after.ru_oublock - before.ru_oublock) * 512)


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
    full_target = {"vmdk": 0.07, "vhd": 0.40, "vhdx": 0.40, "qcow2": 0.60}[arena.format]

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

    def copied() -> list[str]:
        """The same state from a raw file, over the older one."""
        state = f"if={arena.folder / 'moving.raw'}"
        return ["dd", state, f"of={out / 'ours.raw'}", "bs=1M", "conv=notrunc,fsync", "status=none"]

    def full() -> list[str]:
        return [*OURS, "backup", source, *repository, "--format", arena.format]

    def restore() -> list[str]:
        return [*OURS, "restore", "2", str(out / "ours.raw"), "-r", str(arena.with_child)]

    def delta() -> list[str]:
        return [*restore(), "--delta", "--overwrite"]

    again = [*OURS, "backup", changed, *repository]
    merge = [*OURS, "merge", "2", *repository]
    reader = "convert of the chain" if arena.format in ("vmdk", "qcow2") else "7-Zip"
    size = arena.source.stat().st_size
    data, child = size // 2, size // 20  # half of the source is zeros
    in_place = Moved(read=2 * child, hashed=2 * child, written=child, read_back=child)
    return [
        Contest(
            "full", f"convert -O {qemu_name}", full_target, Moved(size, data, data),
            full, converted, arena.clear,
        ),
        Contest(
            "merge of 5 %", f"commit ({committed})", 1.0, in_place, lambda: merge, commit,
            arena.copy_child, lambda: arena.copy_chain(committed),
        ),
        Contest(
            "restore", reader, 0.3, Moved(data, data, data), restore, flattened,
            arena.clear,
        ),
        Contest(
            "delta restore of 5 %", reader, 0.3, Moved(size + child, size, child, child), delta,
            flattened, arena.copy_older, arena.clear,
        ),
        Contest(
            "delta restore of 5 %", "dd of all", 0.5, Moved(size + child, size, child, child),
            delta, copied, arena.copy_older,
        ),
        Contest(
            "verify", "compare", 0.15 if arena.format == "vmdk" else 0.5, Moved(data, data),
            lambda: [*OURS, "verify", "-r", str(arena.full)],
            lambda: ["qemu-img", "compare", "-F", qemu_name, source, str(arena.layer)],
        ),
        borg(arena, Moved(size, data, size // 100), lambda: again),
    ]  # fmt: skip


def borg(arena: Arena, moved: Moved, again: Callable[[], list[str]]) -> Contest:
    """An incremental of 1 % against borg's second run; against `cmp` where there is no borg."""
    name, prepare = "incremental, 1 %", arena.copy_before_change
    if shutil.which("borg") is None:
        compare = ["cmp", str(arena.source), str(arena.source)]
        return Contest(name, "cmp (no borg here)", 1.0, moved, again, lambda: compare, prepare)
    os.environ["BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK"] = "yes"
    kept = arena.folder / f"borg-{arena.format}"
    create = ["borg", "create", "--read-special", "-C", "lz4"]

    def forget_second_run() -> None:  # which is not there before the first race
        if not kept.exists():
            run(["borg", "init", "-e", "none", str(kept)])
            run([*create, f"{kept}::first", str(arena.source)])
        forget = ["borg", "delete", f"{kept}::second"]
        subprocess.run(forget, check=False, stderr=subprocess.DEVNULL)

    theirs = [*create, f"{kept}::second", str(arena.changed)]
    return Contest(
        name, "borg, second run", 0.15, moved, again, lambda: theirs, prepare, forget_second_run
    )
