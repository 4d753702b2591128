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


WRITE_DIGESTS = """
import re, sys
from pathlib import Path
import numpy as np
from vdbackup.repository.digest_writer import DigestWriter
blocks, at_once = int(sys.argv[2]), 1 << 14
writer = DigestWriter(Path(sys.argv[1]), blocks << 16)
digests = np.full((at_once, 32), 7, np.uint8)
for first in range(0, blocks, at_once):
    writer.add(np.arange(first, first + at_once), digests, np.arange(at_once) % 2 == 0)
writer.finish()
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize(
    "size", [TIB // 8, pytest.param(2 * TIB, marks=pytest.mark.long)], ids=["128G", "2T"]
)
def test_digests_of_every_other_block_are_written_in_a_bit_for_each(tmp_path: Path, size: int):
    """An object for each run would take 2.7 GB for 2 TiB."""
    command = [sys.executable, "-c", WRITE_DIGESTS, str(tmp_path / "digests"), str(size >> 16)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 100 * MIB
    held, rows = size >> 17, size >> 25
    assert (tmp_path / "digests").stat().st_size == 96 + held * 32 + rows * 112
