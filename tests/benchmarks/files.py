"""A set of many small files, side by side: `python -m tests.benchmarks.files FOLDER [--files N]`.

Ours, borg and restic each keep the same tree as it is, then again with 1 % of its files changed,
then with nothing changed; as whole processes, one after the other. Of each the wall time, the
processor time and the peak memory are said, and how large its repository is then. FOLDER is on the
storage that is to be measured, and needs some 15 KB for each file. Who is not installed is left
out, which is said.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.arena import MIB, OURS

IN_A_FOLDER = 1000
LARGEST = 1200
"""Bytes of a file; the most have some hundred."""
ENVIRONMENT = {
    "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    "RESTIC_PASSWORD": "of a benchmark",
}


@dataclass(frozen=True)
class Spent:
    """What one backup took.

    Attributes:
        wall, processor: seconds.
        peak: bytes of memory at most, of the largest of its processes.
        stored: bytes that its repository has after it.
    """

    who: str
    work: str
    wall: float
    processor: float
    peak: int
    stored: int


def make_tree(root: Path, files: int) -> None:
    """So many small files, a thousand to a folder, of words that no two of them share wholly."""
    dice = random.Random(7)
    text = dice.randbytes(1 << 20).hex().encode()
    for first in range(0, files, IN_A_FOLDER):
        folder = root / f"{first // IN_A_FOLDER // 50:03}" / f"{first // IN_A_FOLDER:05}"
        folder.mkdir(parents=True)
        for number in range(first, min(first + IN_A_FOLDER, files)):
            at = dice.randrange(len(text) - LARGEST)
            content = b"%d\n" % number + text[at : at + dice.randrange(LARGEST)]
            with open(folder / f"file {number:07}.txt", "wb") as file:
                file.write(content)


def change(root: Path, share: float) -> None:
    """Rewrite a share of them, in folders all over the tree."""
    dice = random.Random(1)
    for folder in sorted(root.glob("*/*")):
        names = sorted(os.listdir(folder))
        for name in dice.sample(names, round(len(names) * share)):
            (folder / name).write_bytes(b"changed " + dice.randbytes(300))


def timed(who: str, work: str, command: list[str], repository: Path) -> Spent:
    """What a command takes; fails where that does."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT})
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if child.returncode:
        raise SystemExit(f"{command} ended with {child.returncode}")
    processor = usage.ru_utime + usage.ru_stime
    return Spent(who, work, wall, processor, usage.ru_maxrss << 10, stored(repository))


def stored(repository: Path) -> int:
    """Bytes that lie on the storage for it."""
    return sum(path.lstat().st_blocks * 512 for path in repository.rglob("*"))


def contenders(folder: Path, tree: Path) -> Mapping[str, tuple[Path, list[str], list[str]]]:
    """Of each its repository, how it is made, and how it backs up."""
    found = {"vdbackup": folder / "ours", "borg": folder / "borg", "restic": folder / "restic"}
    borg, restic = (str(found[name]) for name in ("borg", "restic"))
    commands = {
        "vdbackup": ([], [*OURS, "backup", "--files", str(tree), "-r", str(found["vdbackup"])]),
        "borg": (
            ["borg", "init", "-e", "none", borg],
            ["borg", "create", "-C", "lz4", f"{borg}::{{now:%H%M%S%f}}", str(tree)],
        ),
        "restic": (
            ["restic", "init", "-q", "-r", restic],
            ["restic", "backup", "-q", "-r", restic, str(tree)],
        ),
    }
    return {name: (found[name], *each) for name, each in commands.items()}


def settle() -> None:
    """Have what was written lie on the storage before the next one begins."""
    os.sync()


def race(folder: Path, files: int, said: list[str]) -> list[Spent]:
    """All of it; what each took."""
    tree = folder / "tree"
    print(f"making {files} files", file=sys.stderr, flush=True)
    make_tree(tree, files)
    found: list[Spent] = []
    racing = {}
    for name, (repository, made, command) in contenders(folder, tree).items():
        if name != "vdbackup" and shutil.which(name) is None:
            said.append(f"{name} is not installed.")
            continue
        if made:
            subprocess.run(made, check=True, env={**os.environ, **ENVIRONMENT})
        racing[name] = (repository, command)
    for work in ("first", "1 % changed", "nothing changed"):
        if work.startswith("1"):
            change(tree, 0.01)
            time.sleep(3)  # what was written just now is read again by whoever is careful
        for name, (repository, command) in racing.items():
            settle()
            found.append(timed(name, work, command, repository))
            print(line(found[-1]), file=sys.stderr, flush=True)
    return found


def line(spent: Spent) -> str:
    """A row of the table."""
    return (
        f"| {spent.work:15} | {spent.who:8} | {spent.wall:8.1f} | {spent.processor:8.1f} | "
        f"{spent.peak / MIB:8.0f} | {spent.stored / MIB:8.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="a file that the figures are written to")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True)  # what is there is nobody's to be removed
    for name in ("CONFIG", "DATA", "LOG"):
        os.environ[f"VDBACKUP_{name}_DIR"] = str(folder / name.lower())
    for name in ("BORG_BASE_DIR", "RESTIC_CACHE_DIR"):
        os.environ[name] = str(folder / name.lower())
    os.environ["TMPDIR"] = str(folder)
    said: list[str] = []
    try:
        found = race(folder, options.files, said)
    finally:
        shutil.rmtree(folder)
    print("| work | who | wall (s) | CPU (s) | peak (MiB) | stored (MiB) |")
    print("|---|---|---|---|---|---|")
    print("\n".join(map(line, found)))
    print(f"\n{options.files} files. {' '.join(said)}")
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
