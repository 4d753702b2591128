"""Time and memory over the size of a disk: `python -m tests.benchmarks.sizes FOLDER [--format F]`.

Each disk holds the same data, all over it, and the same of that changes; the rest is a hole. What
follows the size, and not the data, is seen at once. Whole processes; FOLDER needs some five times
the data, and for 16 TiB a file system that has such files (XFS). `charts` draws what is found.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.arena import OURS
from tests.benchmarks.measured import Measured, measured
from vdbackup.disks.formats import FORMATS, fitting_formats

MIB, GIB = 1 << 20, 1 << 30
_PIECE = 1 << 20


def scatter(path: Path, size: int, amount: int, seed: int) -> None:
    """Write that many bytes of noise in pieces of 1 MiB, at equal distances all over the disk."""
    dice = random.Random(seed)
    pieces = amount // _PIECE
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(size)
        for piece in range(pieces):
            file.seek(size // pieces * piece // 4096 * 4096)
            file.write(dice.randbytes(_PIECE))
        os.fsync(file.fileno())


def works(folder: Path, disk_format: str, size: int, data: int) -> Iterator[tuple[str, Measured]]:
    """Each piece of work, and what it took."""
    image, at = folder / "disk.raw", ["-r", str(folder / "repository")]
    scatter(image, size, data, 1)
    backup = [*OURS, "backup", str(image), *at]
    yield "full", measured([*backup, "--format", disk_format])
    scatter(image, size, data // 16, 2)
    yield "incremental", measured(backup)
    yield "list", measured([*OURS, "list", *at])
    yield "verify", measured([*OURS, "verify", *at])
    yield "restore", measured([*OURS, "restore", "2", str(folder / "restored.raw"), *at])
    yield "merge", measured([*OURS, "merge", "2", *at])


def rows(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """A row for each format, size and piece of work."""
    for disk_format in options.format:
        for gib in options.gib:
            if disk_format not in fitting_formats(gib * GIB, 512):
                continue  # VHD ends at 2 TiB
            folder = options.folder / f"{disk_format}-{gib}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for work, took in works(folder, disk_format, gib * GIB, options.data * MIB):
                row = {"format": disk_format, "gib": gib, "work": work, **took.figures()}
                print("  ".join(map(str, row.values())), flush=True)
                yield row
            shutil.rmtree(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", choices=FORMATS, nargs="+", default=list(FORMATS))
    parser.add_argument("--gib", type=int, nargs="+", default=[1, 4, 16, 64, 1024, 16384])
    parser.add_argument("--data", type=int, default=256, help="MiB that each disk holds")
    parser.add_argument("--json", type=Path, help="a file that the figures are written to")
    options = parser.parse_args()
    table = list(rows(options))
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
