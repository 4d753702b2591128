"""Getting data back, side by side with others: `python -m tests.benchmarks.getting_back FOLDER`.

A whole disk of one ext4, full of small files and a large one, is backed up, changed by 5 % and
backed up again. It is restored beside partclone and qemu-img, to nothing and over the older state;
of its files some are listed and extracted beside 7-Zip, which reads the first point's layer itself,
and beside the kernel, which root lets mount a raw copy of the disk. At last points are added until
the chain is long, and the first listing in the last of them is timed.

As `tests.benchmarks` does it: in turn, as whole processes, with durable output. As root. FOLDER
needs some ten times the size of the disk, and 7-Zip and partclone have to be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.__main__ import cells, markdown
from tests.benchmarks.arena import MIB, OURS, run
from tests.benchmarks.contests import Contest, Row, Spent, durable, timed
from tests.benchmarks.files import IN_A_FOLDER, make_tree
from tests.benchmarks.limits import Limits, Moved
from tests.noise import noise
from tests.oracles import sevenzip

SOME = "000/00000"
"""A folder of a thousand small files."""
LARGE = "large"
CHANGED = 0.05
TARGET = 1.0
"""The ratio of wall times, ours to theirs, that is wanted."""


FEW = Moved(read=MIB)
"""What a listing has to read at least."""


class Disk:
    """A disk with two points, and what the others need of it.

    Attributes:
        raw, before: it as the second point has it, and as the first does.
        image: of partclone, of the second state.
        repository: with both points.
        full: the layer of the first one.
        out: what the contests write to.
    """

    def __init__(self, folder: Path, gib: float, files: int, disk_format: str) -> None:
        self.folder, self._format = folder, disk_format
        self.raw, self.before = folder / "disk.raw", folder / "before.raw"
        self.image, self.out = folder / "disk.partclone", folder / "out"
        self.repository = folder / "repository"
        self.full = self.repository / f"disk/0001-full.{disk_format}"
        self._make(gib, files)
        self.back_up()
        shutil.copy(self.raw, self.before)
        with self.mounted() as top:
            self._change(top)
        self.back_up()
        run([*PARTCLONE, "-c", "-F", "-s", str(self.raw), "-o", str(self.image)])

    def _make(self, gib: float, files: int) -> None:
        tree = self.folder / "tree"
        make_tree(tree, files)
        (tree / LARGE).write_bytes(noise(int(gib * 256) * MIB, 1))
        with self.raw.open("wb") as file:
            file.truncate(int(gib * 1024) * MIB)
        inodes = str(2 * files + 1000)
        run(["mkfs.ext4", "-q", "-N", inodes, "-d", str(tree), str(self.raw)])
        shutil.rmtree(tree)

    def _change(self, top: Path) -> None:
        """Rewrite a share of the small files, and of the large one in pieces of 64 KiB."""
        dice = random.Random(1)
        for folder in sorted(top.glob("*/*")):
            names = sorted(os.listdir(folder))
            for name in dice.sample(names, round(len(names) * CHANGED)):
                (folder / name).write_bytes(b"changed " + dice.randbytes(300))
        with (top / LARGE).open("r+b") as file:
            size = (top / LARGE).stat().st_size >> 16
            for at in dice.sample(range(size), round(size * CHANGED)):
                file.seek(at << 16)
                file.write(dice.randbytes(1 << 16))

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """The disk, to be written to."""
        top = self.folder / "mounted"
        top.mkdir(exist_ok=True)
        run(["mount", "-o", "loop", str(self.raw), str(top)])
        try:
            yield top
        finally:
            run(["umount", str(top)])

    def back_up(self) -> None:
        """Make a point."""
        words = ["backup", str(self.raw), "-r", str(self.repository), "--format", self._format]
        run([*OURS, *words, "--set", "disk", "--retarget", "off"])

    def lengthen(self, points: int) -> None:
        """Go on until there are so many points, with a file more in each."""
        for number in range(3, points + 1):
            with self.mounted() as top:
                (top / SOME / f"of point {number}").write_bytes(noise(MIB, number))
            self.back_up()

    def clear(self) -> None:
        """Empty the folder that the contests write to."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()

    def put_older(self) -> None:
        """A target with the state of the first point."""
        self.clear()
        shutil.copy(self.before, self.out / "target")


PARTCLONE = ["partclone.ext4", "-q", "-L", os.devnull]


def contests(disk: Disk) -> Iterator[Contest]:
    """All rows of the table."""
    out, target, top = disk.out, disk.out / "target", disk.folder / "mounted"
    at = ["-r", str(disk.repository)]
    size = disk.raw.stat().st_size
    used = disk.raw.stat().st_blocks * 512
    restore = [*OURS, "restore", "2", str(target), *at]
    delta = [*restore, "--delta", "--overwrite"]
    cloned = [*PARTCLONE, "-r", "-W", "-s", str(disk.image), "-O", str(target)]
    layer = next(disk.repository.glob("disk/0002-*." + disk.full.suffix[1:]))
    converted = ["qemu-img", "convert", "-O", "raw", str(layer), str(target)]
    over = ["qemu-img", "convert", "-n", "-O", "raw", str(layer), str(target)]
    moved = Moved(used, used, used, used)
    changed = Moved(size + used // 20, used, used // 20, used // 20)
    works = (
        ("restore", moved, restore, disk.clear, (("partclone", cloned), ("qemu-img", converted))),
        ("delta restore of 5 %", changed, delta, disk.put_older,
         (("partclone", cloned), ("qemu-img -n", over))),
    )  # fmt: skip
    for name, least, ours, prepare, peers in works:
        for peer, theirs in peers:
            yield Contest(
                name, peer, TARGET, least, lambda ours=ours: ours,
                lambda theirs=theirs: durable(theirs, target), prepare,
            )  # fmt: skip
    mount = f"mount -o loop,ro '{disk.before}' '{top}'"
    seven = [sevenzip.PROGRAM]
    looked = ((SOME, "a thousand files", FEW), (LARGE, "a large file", Moved(read=used // 2)))
    list_ours = [*OURS, "files", "1", f"/{SOME}", *at]
    list_theirs = {
        "7-Zip": [*seven, "l", str(disk.full), f"{SOME}/*"],
        "loop mount by root": ["sh", "-c", f"{mount} && ls -l '{top}/{SOME}'; umount '{top}'"],
    }
    for peer, theirs in list_theirs.items():
        yield Contest(
            "list a thousand files", peer, TARGET, FEW, lambda: list_ours,
            lambda theirs=theirs: theirs, disk.clear,
        )  # fmt: skip
    for path, what, least in looked:
        ours = [*OURS, "extract", "1", f"/{path}", str(out), *at]
        copied = f"{mount} && cp -a '{top}/{path}' '{out}'; umount '{top}'"
        extract_theirs = {
            "7-Zip": [*seven, "x", "-y", f"-o{out}", str(disk.full), path],
            "loop mount by root": ["sh", "-c", copied],
        }
        for peer, theirs in extract_theirs.items():
            yield Contest(
                f"extract {what}", peer, TARGET, least, lambda ours=ours: ours,
                lambda theirs=theirs: theirs, disk.clear,
            )  # fmt: skip


def first_listing(disk: Disk, points: int, rounds: int) -> Spent:
    """What the first listing in the last point of a long chain takes."""
    disk.lengthen(points)
    command = [*OURS, "files", str(points), f"/{SOME}", "-r", str(disk.repository)]
    return Spent.median([timed(command) for _ in range(rounds)])


def versions() -> str:
    """Of the others."""
    commands = {"qemu-img": ["--version"], sevenzip.PROGRAM: [], "partclone.ext4": ["-v"]}
    found = []
    for name, words in commands.items():
        done = subprocess.run([name, *words], capture_output=True, text=True, check=False)
        found.append(next(line for line in done.stdout.splitlines() if line.strip()))
    return "; ".join(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gib", type=float, default=2, help="of the disk; a quarter is a file")
    parser.add_argument("--files", type=int, default=10 * IN_A_FOLDER)
    parser.add_argument("--format", choices=("vmdk", "qcow2"), default="vmdk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--work", default="", help="only the rows whose work begins so: delta")
    parser.add_argument("--json", type=Path, help="a file that the figures are written to")
    options = parser.parse_args()
    # an installed program is compiled: where that is not kept, each of ours would compile itself
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    folder = options.folder.resolve()
    folder.mkdir(parents=True)  # what is there is nobody's to be removed
    for name in ("CONFIG", "DATA", "LOG", "CACHE"):
        os.environ[f"VDBACKUP_{name}_DIR"] = str(folder / name.lower())
    try:
        limits = Limits.of(folder)
        disk = Disk(folder, options.gib, options.files, options.format)
        rows: list[Row] = []
        for contest in contests(disk):
            if not contest.name.startswith(options.work):
                continue
            contest.race(os.sync)
            contest.pairs.clear()  # the first round warms both up
            for _ in range(options.rounds):
                contest.race(os.sync)
            rows.append(contest.row(limits, cold=False))
            print("  ".join(cells("here", options.format, rows[-1])), file=sys.stderr, flush=True)
        listing = first_listing(disk, options.layers, options.rounds)
    finally:
        shutil.rmtree(folder)
    print(markdown([cells("here", options.format, row) for row in rows]))
    print(
        f"\nFirst listing of a thousand files at {options.layers} layers: {listing.wall:.2f} s, of "
        f"the processor {listing.processor:.2f} s."
    )
    print(f"{options.gib} GiB, {options.files} files. {limits.words()}.\n{versions()}.")
    if options.json:
        found = {"rows": [asdict(row) for row in rows], "listing": asdict(listing)}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
