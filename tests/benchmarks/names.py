"""What it costs to note the names of files: `python -m tests.benchmarks.names FOLDER [--files N]`.

A disk of one ext4 with so many small files is backed up, then again and again with 1 % of them
changed, as whole processes: in one repository names are noted after each backup, in the other they
are not. At last both are searched, twice. Of each the processor time is said, which is the one to
go by on a machine with others. As root; FOLDER needs some 20 KB for each file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from pathlib import Path

from tests.benchmarks.arena import MIB, OURS, run
from tests.benchmarks.files import change, make_tree
from tests.benchmarks.measured import Measured, measured

NOTED, PLAIN = "noted", "plain"
HEAD = ("files", "first backup", "with names", "incremental", "with names", "first search",
        "of noted", "second search", "index (KiB)")  # fmt: skip
PER_FILE = 5 << 10
"""Bytes that the disk has for each, with its inode."""


def make_disk(folder: Path, files: int) -> Path:
    """A disk of one ext4 with so many files."""
    tree, disk = folder / "tree", folder / "disk.raw"
    make_tree(tree, files)
    with disk.open("wb") as file:
        file.truncate(64 * MIB + files * PER_FILE // MIB * MIB)
    run(["mkfs.ext4", "-q", "-N", str(files + files // 4 + 1000), "-d", str(tree), str(disk)])
    shutil.rmtree(tree)
    return disk


def change_disk(disk: Path) -> None:
    """Rewrite 1 % of its files."""
    top = disk.with_name("mounted")
    top.mkdir(exist_ok=True)
    run(["mount", "-o", "loop", str(disk), str(top)])
    try:
        change(top, 0.01)
    finally:
        run(["umount", str(top)])


def timed(which: str, *words: object) -> Measured:
    """What a command of the program took in one of the repositories, which has its own cache."""
    os.environ["VDBACKUP_CACHE_DIR"] = str(words[-1]) + "-cache"
    command = [*OURS, *map(str, words[:-1]), "-r", str(words[-1])]
    found = measured(command)
    print(which, words[0], found.figures(), file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--json", type=Path, help="a file that the figures are written to")
    options = parser.parse_args()
    # an installed program is compiled: where that is not kept, each of ours would compile itself
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    folder = options.folder.resolve()
    rows = []
    for files in options.files:
        folder.mkdir(parents=True)  # what is there is nobody's to be removed
        for name in ("CONFIG", "DATA", "LOG"):
            os.environ[f"VDBACKUP_{name}_DIR"] = str(folder / name.lower())
        try:
            rows.append(row(folder, files, options.points))
        finally:
            shutil.rmtree(folder)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for each in rows:
        print(f"| {' | '.join(str(value) for value in each.values())} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def row(folder: Path, files: int, points: int) -> dict[str, object]:
    """The figures for so many files: seconds of the processor."""
    disk = make_disk(folder, files)
    took: dict[str, list[Measured]] = {PLAIN: [], NOTED: []}
    for number in range(points):
        if number:
            change_disk(disk)
        for which, index in ((PLAIN, "off"), (NOTED, "each")):
            words = ("backup", disk, "--retarget", "off", "--index", index, folder / which)
            took[which].append(timed(which, *words))
    searches = {which: timed(which, "find", "file 0000*", folder / which) for which in took}
    again = timed(NOTED, "find", "file 0000*", folder / NOTED)
    (names,) = (folder / f"{NOTED}-cache").rglob("*.names")
    later = {
        which: statistics.median(each.processor for each in found[1:])
        for which, found in took.items()
    }
    return {
        "files": files,
        "first": round(took[PLAIN][0].processor, 2),
        "first_noted": round(took[NOTED][0].processor, 2),
        "incremental": round(later[PLAIN], 2),
        "incremental_noted": round(later[NOTED], 2),
        "search": round(searches[PLAIN].processor, 2),
        "search_noted": round(searches[NOTED].processor, 2),
        "search_again": round(again.processor, 2),
        "index_kib": names.stat().st_size >> 10,
    }


if __name__ == "__main__":
    main()
