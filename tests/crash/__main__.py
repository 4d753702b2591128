"""The long form: `python -m tests.crash [--states N] [--format F] [--story S] [--fine]`.

Tries N states (10,000 if nothing is said) of each format, spread over all stories. Of merges and
repairs a fifth are those of one that was cut off while it is finished, or done again. Prints what
was tried, a line a story, and every fault. Ends with 1 where there was one. `--fine`: points are
kept in units of 8 KiB, as those of many small files are.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.remains import Figures
from tests.crash.stories import STORIES, Story
from tests.crash.telling import Telling
from vdbackup.disks.disk import FINE_UNIT, UNIT
from vdbackup.disks.formats import FORMATS

SAMPLED = 50
"""Every how many states other readers are asked."""
AGAIN = 10
"""How many times the end of a merge, or a repair that is done again, is cut off."""


def told(
    story: Story, disk_format: str, unit: int, count: int, folder: Path
) -> tuple[Figures, list[str]]:
    """That many states of a story, its fulls kept in such units: figures and faults."""
    telling = Telling(story, folder / "told", disk_format, unit)
    goes_on = story.name.startswith("merge") or story.repairs
    faults = telling.try_states(count * 4 // 5 if goes_on else count, sampled=SAMPLED)
    seed = done = 0
    while goes_on and done < AGAIN:
        again = telling.again(folder / str(seed), seed)
        seed += 1
        if again is not None:
            faults += again.try_states(-(-count // 5 // AGAIN), sampled=SAMPLED)
            telling.figures.add(again.figures)
            done += 1
    return telling.figures, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.crash")
    parser.add_argument("--states", type=int, default=10_000, help="of each format")
    parser.add_argument("--format", choices=FORMATS, action="append")
    parser.add_argument("--fine", action="store_true", help="in units of 8 KiB")
    parser.add_argument("--story", choices=[story.name for story in STORIES], action="append")
    arguments = parser.parse_args()
    unit = FINE_UNIT if arguments.fine else UNIT
    logging.disable()  # each state has a lease to take over, which is no news
    wanted = [s for s in STORIES if not arguments.story or s.name in arguments.story]
    wrong = 0
    for disk_format in arguments.format or FORMATS:
        whole, start = Figures(), time.monotonic()
        stories = [story for story in wanted if disk_format in story.formats]
        for number, story in enumerate(stories):
            with tempfile.TemporaryDirectory() as folder:
                # one that has fewer states than its share leaves the rest to those that follow
                count = -(-(arguments.states - whole.states) // (len(stories) - number))
                figures, faults = told(story, disk_format, unit, count, Path(folder))
            print(f"{disk_format}, {story.name}: {figures}, {len(faults)} faults", flush=True)
            for fault in faults:
                print("   ", fault, flush=True)
            wrong += len(faults)
            whole.add(figures)
        print(f"{disk_format}: {whole}, {time.monotonic() - start:.0f} s", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
