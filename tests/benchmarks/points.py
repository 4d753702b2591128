"""Time over points: `python -m tests.benchmarks.points FOLDER [--points 100 500] [--format F]`.

For each number of points a set of that length is made in FOLDER, and each piece of work is done
once, as a whole process of the program with at most 1,024 descriptors. What grows faster than the
number of points is quadratic.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.backup.lab import Lab
from tests.backup.long_sets import lengthen
from tests.benchmarks.measured import Measured, measured
from tests.noise import noise
from vdbackup.disks.formats import FORMATS

MIB = 1 << 20
LIMIT = 1024


def timed(*words: object) -> Measured:
    """What a command of the program took; fails where that does."""
    limited = ["prlimit", f"--nofile={LIMIT}:{LIMIT}"]
    return measured([*limited, sys.executable, "-m", "vdbackup", *map(str, words)])


def works(lab: Lab, points: int, out: Path) -> Iterator[tuple[str, Measured]]:
    """Each piece of work, and what it took."""
    at = ("-r", lab.repository.path)
    yield "list", timed("list", *at, "--json")
    yield "files", timed("files", points, *at)
    yield "restore", timed("restore", points, out, *at)
    lab.poke(12 * MIB, noise(MIB, 2))
    yield "backup", timed("backup", lab.image, *at, "--set", "disk")
    yield "verify", timed("verify", *at)
    yield "merge", timed("merge", 2, *at)
    yield "delete", timed("delete", points // 2, "--yes", *at)


def main() -> None:
    """Print a line for each format and number of points: wall and processor time, in seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--format", choices=FORMATS, nargs="+", default=list(FORMATS))
    parser.add_argument("--json", type=Path, help="a file that the figures are written to")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for disk_format in options.format:
        for points in options.points:
            folder = options.folder / f"{disk_format}-{points}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name in ("CONFIG", "DATA", "LOG"):
                os.environ[f"VDBACKUP_{name}_DIR"] = str(folder / name.lower())
            lab = Lab(folder, 16 * MIB, disk_format=disk_format)
            subprocess.run(["mkfs.ext4", "-q", "-F", lab.image, "8M"], check=True)
            lab.poke(8 * MIB, noise(MIB, 1))
            lab.backup()
            lengthen(lab, points)
            took = dict(works(lab, points, folder / "o"))
            rows += [
                {"format": disk_format, "points": points, "work": name, **each.figures()}
                for name, each in took.items()
            ]
            each = [f"{name} {took[name].wall:.2f}/{took[name].processor:.2f}" for name in took]
            print(f"{disk_format:6} {points:6} points  " + "  ".join(each), flush=True)
            shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
