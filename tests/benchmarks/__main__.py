"""Side by side with its peers: `python -m tests.benchmarks FOLDER [--format F] [--gib 4] ...`.

Ours and theirs run in turn, as whole processes, with durable output and checked exit codes; what
counts is the median of the ratios, pair by pair, because the machine's speed drifts. Beside them
stands what this machine would take for moving the bytes alone. FOLDER needs some eight times the
size of the source. `--xfs` and `--btrfs` make such a file system in a file there, as root, and run
the merge on that.

QEMU makes no children in VHD and VHDX, and reads none. Where a chain in one of these is at stake,
the peer is what QEMU does with the same chain in QCOW2, or 7-Zip, which reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from tests.backup.sharing import SHARING, sharing_storage
from tests.benchmarks.arena import MIB, Arena
from tests.benchmarks.contests import Row, contests
from tests.benchmarks.limits import Limits
from tests.oracles import sevenzip
from vdbackup.disks.formats import FORMATS

HEAD = ("storage", "format", "work", "peer", "ours (s)", "theirs (s)", "ratio", "target",
        "limit (s)", "ours / limit", "CPU (s)", "theirs", "written (MiB)", "theirs")  # fmt: skip
MERGE = "merge of 5 %"
SHARED_TARGET = 0.3
"""What a merge is to take where nothing is copied, as a ratio to the peer's."""


def raced(
    folder: Path, formats: list[str], work: str, options: argparse.Namespace, limits: Limits
) -> Iterator[tuple[str, Row]]:
    """The rows of each format, one after the other; only what the next needs, too, is left."""
    for disk_format in formats:
        arena = Arena(folder, options.gib, disk_format)
        settle: Callable[[], None] = arena.cool if options.cold else os.sync
        for contest in contests(arena):
            if not contest.name.startswith(work):
                continue
            contest.race(settle)
            contest.pairs.clear()  # the first round warms both up
            for _ in range(options.rounds):
                contest.race(settle)
            yield disk_format, contest.row(limits, options.cold)
        arena.remove()


def versions() -> str:
    """Of the peers."""
    commands = {"qemu-img": ["--version"], sevenzip.PROGRAM: [], "borg": ["--version"]}
    found = []
    for name, words in commands.items():
        if shutil.which(name):
            done = subprocess.run([name, *words], capture_output=True, text=True, check=False)
            found.append(next(line for line in done.stdout.splitlines() if line.strip()))
    return "; ".join(found)


def cells(storage: str, disk_format: str, row: Row) -> tuple[str, ...]:
    """A line of the table."""
    return (
        storage, disk_format, row.work, row.peer, f"{row.ours:.2f}", f"{row.theirs:.2f}",
        f"{row.ratio:.2f}", f"{row.target}", f"{row.limit:.2f}", f"{row.distance:.1f}",
        f"{row.spent.processor:.2f}", f"{row.spent_by_them.processor:.2f}",
        f"{row.spent.written / MIB:.0f}", f"{row.spent_by_them.written / MIB:.0f}",
    )  # fmt: skip


def markdown(lines: list[tuple[str, ...]]) -> str:
    """The table."""
    widths = [max(map(len, column)) for column in zip(HEAD, *lines, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        return f"| {' | '.join(map(str.ljust, row, widths))} |"

    rule = "|".join(["", *("-" * (width + 2) for width in widths), ""])
    return "\n".join([line(HEAD), rule, *map(line, lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", choices=FORMATS, action="append", help="all if left out")
    parser.add_argument("--work", default="", help="only the rows whose work begins so: merge")
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="nothing is in the page cache")
    for kind in SHARING:
        parser.add_argument(f"--{kind}", action="store_true", help="the merge there, too")
    parser.add_argument("--json", type=Path, help="a file that the figures are written to")
    options = parser.parse_args()
    # an installed program is compiled: where that is not kept, each of ours would compile itself
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    limits, formats = Limits.of(folder), options.format or list(FORMATS)
    lines, figures = [], []

    def note(storage: str, disk_format: str, row: Row) -> None:
        lines.append(cells(storage, disk_format, row))
        print("  ".join(lines[-1]), file=sys.stderr, flush=True)
        figures.append({"storage": storage, "format": disk_format, **asdict(row)})

    for disk_format, row in raced(folder, formats, options.work, options, limits):
        note("here", disk_format, row)
    for kind in (kind for kind in SHARING if vars(options)[kind]):
        with ExitStack() as stack:
            inside = folder / kind
            inside.mkdir()
            stack.callback(shutil.rmtree, inside)
            mounted = stack.enter_context(
                sharing_storage(kind, inside, int(options.gib * 10) << 30)
            )
            for disk_format, row in raced(mounted, formats, MERGE, options, limits):
                note(kind, disk_format, replace(row, target=SHARED_TARGET))
    print(markdown(lines))
    print(f"\n{'Cold' if options.cold else 'Warm'}, {options.gib} GiB. {limits.words()}.")
    print(f"{versions()}.")
    if options.json:
        head = {"gib": options.gib, "cold": options.cold, "rounds": options.rounds}
        head |= {"limits": asdict(limits), "versions": versions(), "rows": figures}
        options.json.write_text(json.dumps(head, indent=1) + "\n")


if __name__ == "__main__":
    main()
