"""Convert: a set in another format, each point the same disk; the old set stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backup.lab import SIZE, Lab
from tests.crash.faults import counted, power_cut, storage_error
from tests.noise import noise
from tests.oracles import readers
from tests.sources.opened import open_path
from vdbackup.backup import capture, convert
from vdbackup.disks.formats import FORMATS
from vdbackup.errors import BackupError, Cancelled, Damaged, RepositoryError, UsageError
from vdbackup.jobs import CancelToken, Job, JobState, Progress, Task, silent
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    """1 <- 2, a differential 3 on 1, a full 5; number 4 is gone; zeros over data among it."""
    lab = Lab(tmp_path, SIZE, disk_format=disk_format)
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.backup()
    lab.poke(BLOCK, 2 * BLOCK)
    lab.poke(-512, noise(512, 2))
    lab.backup()
    lab.poke(5 * BLOCK, noise(100, 3))
    lab.backup("differential")
    gone = lab.backup()
    lab.poke(7 * BLOCK, BLOCK)
    lab.backup("full")
    lab.delete(gone)
    return lab


def other_format(lab: Lab) -> str:
    """The next one in the list: all pairs of neighbours are tried."""
    names = list(FORMATS)
    return names[(names.index(lab.disk_format) + 1) % len(names)]


def converted(lab: Lab) -> BackupSet:
    plan = convert.plan(lab.repository, "disk", other_format(lab))
    return convert.run(plan, Task())


@pytest.mark.each_format
def test_every_point_of_a_converted_set_reads_the_same_by_other_readers(lab):
    new = converted(lab)
    assert new.name == f"disk-{other_format(lab)}"
    for old, point in zip(lab.set.points, new.points, strict=True):
        assert (point.sequence, point.type, point.created) == (old.sequence, old.type, old.created)
        assert point.stored_bytes == old.stored_bytes
        assert point.id != old.id
        for disk in (new.disk_path(point), new.overlay_path(point)):
            readers.assert_holds(disk, lab.moments[old.id], new.settings.format)
    parents = {point.sequence: point.parent for point in new.points}
    ids = {point.sequence: point.id for point in new.points}
    assert parents == {1: None, 2: ids[1], 3: ids[1], 5: None}


def test_the_old_set_keeps_its_points(lab):
    before = lab.files
    converted(lab)
    assert {name: lab.files[name] for name in before} == before
    lab.check_all()


def test_later_backups_of_the_source_go_on_in_the_new_set(lab):
    new = converted(lab)
    lab.poke(0, b"changed since")
    with open_path(lab.image) as source:
        result = capture.run(capture.plan(lab.repository, source), Task())
    assert (result.set_name, result.point.sequence) == (new.name, 6)
    assert result.point.parent == new.points[-1].id
    layer = new.disk_path(result.point)
    readers.assert_holds(layer, lab.image, new.settings.format)


def test_a_set_is_not_converted_to_the_format_that_it_has(lab):
    with pytest.raises(BackupError, match="already"):
        convert.plan(lab.repository, "disk", lab.disk_format)


def test_a_format_that_does_not_exist_is_refused(lab):
    with pytest.raises(UsageError, match="no disk format"):
        convert.plan(lab.repository, "disk", "vdi")


def test_a_name_that_is_taken_is_refused(lab):
    plan = convert.plan(lab.repository, "disk", other_format(lab), target="disk")
    before = lab.files
    with pytest.raises(RepositoryError, match="already"):
        convert.run(plan, Task())
    assert lab.files == before


def test_a_damaged_point_is_not_copied_as_if_it_were_right(lab):
    layer = lab.layer(lab.set.points[1])
    layer.chmod(0o600)
    data = bytearray(layer.read_bytes())
    at = data.index(noise(512, 2))  # what the point itself captured
    data[at] ^= 1
    layer.write_bytes(data)
    before = lab.files
    with pytest.raises(Damaged, match="Point 2") as refusal:
        converted(lab)
    assert refusal.value.advice
    assert lab.files == before


def test_a_cancelled_conversion_leaves_nothing(lab):
    before = lab.files
    cancel = CancelToken()

    def report(progress: Progress) -> None:
        if progress.phase == "Convert point 3":
            cancel.cancel()

    with pytest.raises(Cancelled):
        convert.run(convert.plan(lab.repository, "disk", other_format(lab)), Task(report, cancel))
    assert lab.files == before


def changes(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[range, object]:
    load = lab.save(tmp_path_factory.mktemp("saved"))
    with counted() as faults:
        converted(lab)
    load()
    return range(0, len(faults.calls), 7), load


@pytest.mark.parametrize("disk_format", ["qcow2"], indirect=True)
def test_a_conversion_cut_off_anywhere_leaves_the_whole_new_set_or_none(lab, tmp_path_factory):
    numbers, load = changes(lab, tmp_path_factory)
    for number in numbers:
        with power_cut(number):
            converted(lab)
        lab.check_without_processes() if number == 0 else None
        if len(lab.repository.names()) == 1:
            converted(lab)
        new = lab.repository.set(f"disk-{other_format(lab)}")
        assert [point.sequence for point in new.points] == [1, 2, 3, 5]
        load()


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_a_conversion_on_failing_storage_leaves_the_old_set_as_it_was(lab, tmp_path_factory):
    before = lab.files
    numbers, load = changes(lab, tmp_path_factory)
    for number in numbers:
        job = Job("Convert", lambda task: converted(lab))
        with storage_error(number):
            job.run(silent)
        if job.state is JobState.FAILED:
            assert job.error is not None
            assert job.error.advice
            kept = {name: facts for name, facts in lab.files.items() if ".partial" not in name}
            made = {name: facts for name, facts in kept.items() if name not in before}
            assert {name: kept[name] for name in before} == before
            assert not made or lab.repository.set(f"disk-{other_format(lab)}").points[3:]
        load()
