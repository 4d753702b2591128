"""A source that gives read errors is backed up without what is lost; one that goes away is not."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.backup.lab import SIZE, Lab
from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup import cli
from vdbackup.backup import adopt, convert, forecast, repair
from vdbackup.backup.forecast import Outlook
from vdbackup.errors import Cancelled, SourceError
from vdbackup.jobs import CancelToken, Task
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy
from vdbackup.sources import salvage

Ranges = Sequence[tuple[int, int]]
ALL = [(0, SIZE)]


class FailingDisk:
    """Makes reads of an image fail wherever they touch one of the ranges.

    Attributes:
        errors: how many reads failed.
        at_first_error: called when the first read fails.
    """

    def __init__(self, image: Path, ranges: Ranges, number: int) -> None:
        self._inode, self._ranges, self._number = image.stat().st_ino, ranges, number
        self._preadv = os.preadv
        self.errors = 0
        self.at_first_error: Callable[[], object] = lambda: None

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        if os.fstat(fd).st_ino == self._inode:
            end = offset + sum(len(buffer) for buffer in buffers)
            if any(start < end and offset < start + length for start, length in self._ranges):
                self.errors += 1
                if self.errors == 1:
                    self.at_first_error()
                raise OSError(self._number, os.strerror(self._number))
        return self._preadv(fd, buffers, offset, flags)


@contextmanager
def failing(lab: Lab, ranges: Ranges, number: int = errno.EIO) -> Iterator[FailingDisk]:
    disk = FailingDisk(lab.image, ranges, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", disk.preadv)
        yield disk


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    lab = Lab(tmp_path, disk_format=disk_format)
    lab.poke(0, noise(SIZE, 1))
    return lab


def lose(lab: Lab, point: RecoveryPoint) -> None:
    """The moment that the point can have: with zeros where the disk gave nothing."""
    with lab.moments[point.id].open("r+b") as copy:
        for offset, length in point.unreadable:
            copy.seek(offset)
            copy.write(bytes(length))


SOME = [(512, 512), (5 * BLOCK - 512, 1024), (SIZE - 512, 512)]


def test_a_full_holds_all_that_can_be_read_and_zeros_for_each_lost_sector(lab):
    with failing(lab, SOME):
        point = lab.backup()
    assert point.unreadable == tuple(SOME)
    (warning,) = point.warnings
    assert "2 KiB of the source could not be read and are zeros" in warning
    assert f"at bytes 512, {5 * BLOCK - 512}, {SIZE - 512}." in warning
    assert lab.set.point(point.id).unreadable == tuple(SOME)
    lose(lab, point)
    lab.check_all()


def test_an_incremental_keeps_what_is_lost_as_zeros_and_no_other_block_for_it(lab):
    lab.backup()
    lab.poke(8 * BLOCK, noise(100, 2))
    with failing(lab, SOME):
        point = lab.backup()
    assert point.type == "incremental"
    assert point.unreadable == tuple(SOME)
    assert point.stored_bytes == 4 * BLOCK + SIZE % BLOCK
    lose(lab, point)
    lab.check_all()


def test_the_next_incremental_reads_again_what_was_lost(lab):
    with failing(lab, SOME):
        lose(lab, lab.backup())
    with failing(lab, SOME[:1]):
        point = lab.backup()
        assert point.unreadable == tuple(SOME[:1])
        lose(lab, point)
    point = lab.backup()
    assert point.unreadable == point.warnings == ()
    assert point.stored_bytes == BLOCK
    lab.check_all()


def test_what_stays_lost_is_said_of_every_point_and_stored_once(lab):
    with failing(lab, SOME):
        lose(lab, lab.backup())
        point = lab.backup()
    assert (point.unreadable, point.stored_bytes) == (tuple(SOME), 0)
    lose(lab, point)
    lab.check_all()


def test_a_policy_never_takes_the_last_point_that_could_read_what_is_lost_since(lab):
    first = lab.backup(policy=Policy(keep=1))
    with failing(lab, SOME):
        result = lab.capture()
        lose(lab, result.point)
        assert [point.sequence for point in lab.set.points] == [1, 2]
        assert lab.set.point(first.id) == first
        (said,) = result.notes
        assert said.startswith("Point 1 stays: it holds what could not be read any more")
        lab.poke(8 * BLOCK, noise(100, 2))
        assert forecast.taken(Outlook(lab.set).fates(Policy(1), datetime.now(UTC))) == (
            result.point,
        )
        lose(lab, lab.backup())
        assert [point.sequence for point in lab.set.points] == [1, 3]
        lab.check_all()
    assert "stay" not in " ".join(lab.capture().notes)
    assert [point.sequence for point in lab.set.points] == [4]
    lab.check_all()


def test_each_point_stays_that_alone_could_read_one_of_two_bad_places(lab):
    lab.backup(policy=Policy(keep=1))
    for bad in ([SOME[0]], [SOME[1]], [SOME[0], SOME[1]]):
        with failing(lab, bad):
            lose(lab, lab.backup())
    assert [point.sequence for point in lab.set.points] == [2, 3, 4]
    lab.check_all()


@pytest.mark.parametrize("number", [errno.ENODATA, errno.EREMOTEIO, errno.EILSEQ])
def test_every_error_of_a_medium_is_one(tmp_path, number):
    """The kernel's words for one bad place differ by the kind of disk."""
    lab = Lab(tmp_path)
    lab.poke(0, noise(SIZE, 1))
    with failing(lab, SOME, number):
        assert lab.backup().unreadable == tuple(SOME)


@pytest.mark.parametrize(("lost", "errors"), [((5 * BLOCK, 512), 4), (SOME[0], 4 + 5)])
def test_one_lost_sector_costs_few_failing_reads(tmp_path, lost, errors):
    """A disk may take many seconds for each.

    Who the disk is stands in its first sectors, and whether all of what lies on it is there.
    """
    lab = Lab(tmp_path)
    lab.poke(0, noise(SIZE, 1))
    with failing(lab, [lost]) as disk:
        lab.backup()
    assert disk.errors == errors


def test_places_are_counted_where_they_are_many(tmp_path):
    lab = Lab(tmp_path)
    lab.poke(0, noise(SIZE, 1))
    places = [(n * BLOCK, 512) for n in range(12)]
    with failing(lab, places):
        (warning,) = lab.backup().warnings
    assert warning.endswith("262144 and 7 more places.")
    assert "6 KiB" in warning


def test_a_dying_disk_is_given_up_and_the_last_point_stays(lab, monkeypatch):
    lab.backup()
    before = lab.files
    monkeypatch.setattr(salvage, "MAX_SECTORS", 100)
    with (
        failing(lab, [(BLOCK, 101 * 512)]) as disk,
        pytest.raises(SourceError, match=r"More than 100 sectors of .*disk\.img") as refusal,
    ):
        lab.backup()
    assert "ddrescue" in refusal.value.advice
    assert disk.errors < 200
    assert lab.files == before
    with failing(lab, [(BLOCK, 100 * 512)]):
        assert lab.backup().unreadable == ((BLOCK, 100 * 512),)


def test_a_disk_that_gives_nothing_at_all_leaves_the_last_point_as_it_was(lab):
    lab.backup()
    before = lab.files
    with failing(lab, ALL), pytest.raises(SourceError, match="Nothing of"):
        lab.backup()
    assert lab.files == before


@pytest.mark.parametrize("number", [errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOMEDIUM])
def test_a_device_that_goes_away_fails_the_capture_at_once(lab, number):
    lab.backup()
    before = lab.files
    with failing(lab, SOME, number) as disk, pytest.raises(SourceError, match="cannot be read at"):
        lab.backup()
    assert disk.errors <= 4  # one a thread
    assert lab.files == before


@pytest.mark.parametrize("kind", ["full", "incremental", "differential"])
def test_a_source_that_vanishes_is_no_backup(lab, kind):
    lab.backup()
    before = lab.files

    def vanish(_: object) -> None:
        if lab.image.exists():
            lab.image.rename(lab.folder / "elsewhere")

    with pytest.raises(SourceError, match="disappeared while it was read"):
        lab.capture(kind, report=vanish)
    assert lab.files == before
    (lab.folder / "elsewhere").rename(lab.image)
    lab.backup()
    lab.check_all()


def test_read_errors_of_a_source_that_is_gone_are_not_taken_for_lost_sectors(lab):
    lab.backup()
    before = lab.files
    with failing(lab, [(BLOCK, SIZE)]) as disk:
        disk.at_first_error = lambda: lab.image.rename(lab.folder / "elsewhere")
        with pytest.raises(SourceError, match="disappeared"):
            lab.backup()
    assert disk.errors <= 4
    assert lab.files == before


def test_a_source_that_shrinks_behind_what_was_read_is_no_backup(lab):
    lab.backup()
    before = lab.files
    with pytest.raises(SourceError, match="became shorter"):
        lab.capture("full", report=lambda _: os.truncate(lab.image, SIZE - 512))
    assert lab.files == before


def test_waiting_for_a_bad_disk_can_be_cancelled(lab):
    lab.backup()
    before = lab.files
    cancel = CancelToken()
    with failing(lab, ALL) as disk:
        disk.at_first_error = cancel.cancel
        with pytest.raises(Cancelled):
            lab.capture("full", cancel=cancel)
    assert disk.errors <= 4
    assert lab.files == before


def test_after_a_merge_the_point_says_what_its_own_moment_lacks(lab):
    with failing(lab, SOME):
        lose(lab, lab.backup())
    lab.poke(3 * BLOCK, noise(BLOCK, 3))
    with failing(lab, SOME[1:]):
        second = lab.backup()
        lose(lab, second)
    merged = lab.merge(second)
    assert merged.unreadable == tuple(SOME[1:])
    assert merged.warnings == second.warnings
    lab.check_all()


def test_a_converted_point_says_it_too(tmp_path):
    lab = Lab(tmp_path)
    lab.poke(0, noise(SIZE, 1))
    with failing(lab, SOME):
        point = lab.backup()
    plan = convert.plan(lab.repository, "disk", "qcow2")
    (converted,) = convert.run(plan, Task()).points
    assert (converted.unreadable, converted.warnings) == (point.unreadable, point.warnings)


def test_a_repaired_manifest_says_it_too_if_it_can_still_be_read(lab):
    with failing(lab, SOME):
        point = lab.backup()
    manifest = lab.set_folder / "0001-full.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"disk_size": "?"}))
    assert repair.run(lab.repository.path, Task()).done
    (again,) = lab.set.points
    assert again.unreadable == point.unreadable
    assert set(point.warnings) < set(again.warnings)


@pytest.mark.parametrize(
    "ranges", [[[0]], [[-1, 5]], ["ab"], [[0, 512, 3]], 7, [None], [[0, SIZE + 512]]]
)
def test_a_manifest_that_lies_about_it_is_refused(tmp_path, ranges):
    lab = Lab(tmp_path)
    lab.poke(0, noise(SIZE, 1))
    lab.backup()
    manifest = lab.set_folder / "0001-full.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"unreadable": ranges}))
    repair.run(lab.repository.path, Task())
    (point,) = lab.set.points
    assert point.unreadable == ()


def test_the_command_line_says_it_and_ends_with_3(lab, capfd):
    arguments = ["-r", str(lab.repository.path), "--format", lab.disk_format]
    with failing(lab, SOME):
        assert cli.main(["backup", str(lab.image), *arguments]) == 3
    assert "could not be read" in capfd.readouterr().err
    assert cli.main(["list", "-r", str(lab.repository.path), "--json"]) == 0
    (listed,) = json.loads(capfd.readouterr().out)["sets"]
    (point,) = listed["points"]
    assert point["unreadable"] == [list(each) for each in SOME]
    assert "could not be read" in point["warnings"][0]


def test_a_chain_with_read_errors_is_not_adopted_and_says_to_back_it_up(lab):
    lab.backup()
    lab.poke(0, noise(SIZE, 7))
    lab.backup()
    elsewhere = lab.folder / "elsewhere"
    shutil.copytree(lab.set_folder, elsewhere)
    before = lab.files
    tip = elsewhere / lab.file("0002-incremental")
    for failing_file in (tip, elsewhere / lab.file("0001-full")):
        with open_path(tip) as source:
            plan = adopt.plan(lab.repository, source, set_name="adopted")
            disk = FailingDisk(failing_file, [(1 << 16, 1 << 40)], errno.EIO)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "preadv", disk.preadv)
                with pytest.raises(SourceError, match="cannot be read: Input/output") as error:
                    adopt.run(plan, Task())
            assert disk.errors
        assert "Back it up instead" in error.value.advice
        assert lab.files == before
        assert lab.repository.names() == ["disk"]
