"""Memory follows the maps, not the size of the disk."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

MIB, TIB = 1 << 20, 1 << 40
LIMIT = 300 * MIB  # bytes resident


RUN = """
import re, sys
from pathlib import Path
from vdbackup import cli
status = cli.main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""


def peak_memory(*arguments: object) -> int:
    """Run the program; its largest resident size in bytes.

    The program says it itself: wait4(2) would count what this process had when it forked.
    """
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024


def scatter(image: Path, pieces: int, size: int, seed: int) -> None:
    """Write random pieces at random places."""
    dice = random.Random(seed)
    with image.open("r+b") as file:
        for _ in range(pieces):
            file.seek(dice.randrange(TIB // MIB) * MIB)
            file.write(dice.randbytes(size))


@pytest.mark.parametrize(
    "data", [128 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.long)], ids=["128M", "1G"]
)
def test_a_tebibyte_is_captured_merged_and_verified_in_300_megabytes(tmp_path: Path, data: int):
    image, repository = tmp_path / "huge.img", tmp_path / "backups"
    image.touch()
    os.truncate(image, TIB)
    scatter(image, data // MIB, MIB, seed=1)
    peaks = {"full": peak_memory("backup", image, "-r", repository)}
    scatter(image, 200, 30_000, seed=2)
    peaks["incremental"] = peak_memory("backup", image, "-r", repository)
    peaks["merge"] = peak_memory("merge", 2, "-r", repository)
    peaks["verify"] = peak_memory("verify", "-r", repository)
    assert max(peaks.values()) < LIMIT, peaks
