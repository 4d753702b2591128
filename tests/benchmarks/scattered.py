"""Memory of a map of very many runs: `python -m tests.benchmarks.scattered [--tib 2]`.

Every other block of 64 KiB of such a disk lies in its layer. Prints the largest resident size after
each step that reading, verifying and merging such a layer begin with.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import numpy as np

from vdbackup.disks.extents import UNALLOCATED, BlockMap, aligned, flatten
from vdbackup.disks.transfer import CHUNK, chunks

BLOCK = 64 << 10


def main() -> None:
    """Make the map, and say what each step took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tib", type=float, default=2.0)
    size = int(parser.parse_args().tib * (1 << 40))
    started = time.monotonic()

    def say(step: str, count: int) -> None:
        status = Path("/proc/self/status").read_text()
        peak = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) >> 10
        print(f"{step:8} {count:12,}  {peak:6,} MiB  {time.monotonic() - started:6.1f} s")

    blocks = np.arange(0, size // BLOCK, 2, dtype=np.int64)
    layer = BlockMap.from_blocks(size, BLOCK, blocks, (blocks // 2 + 1) * BLOCK, UNALLOCATED)
    del blocks
    say("map", len(layer.starts))
    flat = flatten([layer])
    say("chain", len(flat.starts))
    ranges = aligned(layer.own_ranges(), BLOCK, size)
    say("ranges", len(ranges))
    next(chunks(ranges, CHUNK))
    say("chunks", len(ranges))


if __name__ == "__main__":
    main()
