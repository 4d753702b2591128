"""Whether what is wrong is noticed: `python -m tests.crash.mutations [--states N] [--fine] ...`.

Each mutation switches off one thing on which safety rests: an fsync (every place in the code that
calls one, as the records have them), a phase of the journal, an order, a check. Then:

1. The stories are told again, and the states tried that a power cut leaves. The first in which
   something does not hold is printed.
2. Where none was found, the tests are run that look at the thing without a power cut, or below the
   engine, where nothing is done again after one. The first that fails is printed.
3. Where nothing can notice it, it is said why. Anything else is printed as NOT NOTICED, and the
   command ends with 1.

An fsync of the engine is tried in one format, one of a format's module in that format.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.crash.stories import STORIES, Story
from tests.crash.switched_off import MUTATIONS, NOT_NOTICED, Mutation, without_line
from tests.crash.telling import Telling
from vdbackup.disks.disk import FINE_UNIT, UNIT
from vdbackup.disks.formats import FORMATS

Apply = Callable[[pytest.MonkeyPatch], None]
ROOT = Path(__file__).parents[2]
UNNOTICED = "NOT NOTICED"


# ------------------------------------------------------------------------------------ power cuts


def by_power_cuts(mutation: Mutation, count: int, folder: Path, unit: int) -> str | None:
    """The first state that is wrong; None if no power cut shows it."""
    for number, story in enumerate(STORIES):
        if mutation.disk_format not in story.formats:
            continue
        with pytest.MonkeyPatch.context() as patch:
            try:
                telling = _told(story, folder / str(number), mutation, patch, unit)
                faults = telling.try_states(count, until_wrong=True, sampled=20)
            except Exception as error:  # noqa: BLE001 - it shows without any power cut
                return f"{story.name}: {type(error).__name__}: {error}"
        if faults:
            return faults[0]
    return None


def _told(
    story: Story, folder: Path, mutation: Mutation, patch: pytest.MonkeyPatch, unit: int
) -> Telling:
    def act(lab: Any) -> None:
        mutation.apply(patch)
        story.act(lab)

    return Telling(replace(story, act=act), folder, mutation.disk_format, unit)


def barriers(disk_format: str, tellings: list[Telling]) -> list[str]:
    """Every place that calls fsync: of the engine in one format, of a format in that one."""
    sites = dict.fromkeys(site for telling in tellings for site in telling.record.sites())
    return [site for site in sites if (_format_of(site) or next(iter(FORMATS))) == disk_format]


def _format_of(site: str) -> str | None:
    """The format whose package the place is in."""
    stem = site.removeprefix("disks.").partition(".")[0]
    return stem if stem in FORMATS else None


def without_barrier(site: str, tellings: list[Telling], count: int) -> str | None:
    """The first state that is wrong if the code does not call fsync there; None if none is."""
    for telling in tellings:
        if site in telling.record.sites():
            record, cuts = telling.record.without(site)
            faults = telling.try_states(count, record=record, cuts=cuts, until_wrong=True)
            if faults:
                return faults[0]
    return None


# ----------------------------------------------------------------------------------------- tests


class _First:
    """A plugin of pytest that remembers the first test that failed."""

    def __init__(self) -> None:
        self.failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def by_tests(apply: Apply, tests: Sequence[str], matching: str = "") -> str | None:
    """The first test that fails, in this process; None if all pass."""
    first = _First()
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={ROOT}"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        apply(patch)
        status = pytest.main(
            [*arguments, "-k", matching, *(str(ROOT / test) for test in tests)], [first]
        )
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(said.getvalue())
    return first.failed or None


def of_format(disk_format: str) -> list[str]:
    """The tests of a format alone, where nothing recovers what a power cut left."""
    return ["tests/disks/test_power_cuts.py", f"tests/disks/{disk_format}/test_{disk_format}.py"]


# --------------------------------------------------------------------------------------- command


def noticed_barriers(
    disk_format: str, count: int, match: str, unit: int
) -> Iterator[tuple[str, str]]:
    """Each barrier, and who noticed that it was not there."""
    with tempfile.TemporaryDirectory() as folder:
        tellings = [
            Telling(story, Path(folder) / str(number), disk_format, unit)
            for number, story in enumerate(STORIES)
            if disk_format in story.formats
        ]
        for site in barriers(disk_format, tellings):
            if match not in f"no fsync at {site}":
                continue
            by = without_barrier(site, tellings, count)
            if by is None and _format_of(site):

                def apply(patch: pytest.MonkeyPatch, site: str = site) -> None:
                    without_line(patch, site)

                by = by_tests(apply, of_format(disk_format), disk_format)
            why_not = NOT_NOTICED.get(site.rpartition(":")[0], "")
            yield f"no fsync at {site} ({disk_format})", _said(by, folder, why_not)


def noticed(mutation: Mutation, count: int, unit: int) -> str:
    """Who noticed it."""
    with tempfile.TemporaryDirectory() as folder:
        by = None if mutation.tests else by_power_cuts(mutation, count, Path(folder), unit)
        if mutation.tests:
            by = by_tests(mutation.apply, mutation.tests)
        return _said(by, folder, mutation.why_not)


def _said(by: str | None, folder: str, why_not: str) -> str:
    if by:
        return by.replace(folder, "")
    return f"nothing can notice it: {why_not}" if why_not else UNNOTICED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.crash.mutations")
    parser.add_argument("--states", type=int, default=200, help="of each story")
    parser.add_argument("--format", choices=FORMATS, action="append")
    parser.add_argument("--match", default="", help="only mutations whose name has this in it")
    parser.add_argument("--fine", action="store_true", help="in units of 8 KiB")
    arguments = parser.parse_args()
    unit = FINE_UNIT if arguments.fine else UNIT
    logging.disable()  # each state has a lease to take over, which is no news
    found = []
    for disk_format in arguments.format or FORMATS:
        for name, by in noticed_barriers(disk_format, arguments.states, arguments.match, unit):
            print(f"{name}: {by}", flush=True)
            found.append(by)
        for mutation in MUTATIONS:
            if mutation.disk_format == disk_format and arguments.match in mutation.name:
                by = noticed(mutation, arguments.states, unit)
                print(f"{mutation.name} ({disk_format}): {by}", flush=True)
                found.append(by)
    unnoticed = found.count(UNNOTICED)
    print(f"{len(found)} mutations, {unnoticed} not noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
