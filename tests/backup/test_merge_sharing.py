"""Merge where the storage shares extents: nothing is copied, and the parent is never torn."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backup.lab import SIZE, Lab, sha256
from tests.backup.once import once
from tests.backup.sharing import SHARING, shared_bytes, sharing_storage
from tests.noise import noise
from vdbackup import durable
from vdbackup.backup import merge, merged_layer
from vdbackup.backup.merge import Way
from vdbackup.disks.formats import FORMATS
from vdbackup.disks.host_file import HostFile
from vdbackup.errors import Cancelled, Damaged, NoSpace
from vdbackup.jobs import CancelToken, Progress, Task, silent
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint

MOUNTED = os.geteuid() == 0
"""An ordinary user has what there is: there the same holds, but for sharing itself."""


@pytest.fixture(scope="module", params=SHARING)
def storage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    with sharing_storage(request.param, tmp_path_factory.mktemp(request.param)) as folder:
        yield folder


@pytest.fixture
def lab(storage: Path, tmp_path: Path, disk_format: str) -> Lab:
    return four_points(Lab(tmp_path, SIZE, storage / tmp_path.name, disk_format))


@once
def four_points(lab: Lab) -> None:
    """1 <- 2 <- 3 <- 4: changes, new blocks, zeros over data, both ends."""
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.backup()
    lab.poke(3 * BLOCK, noise(4 * BLOCK, 11))
    lab.poke(BLOCK, BLOCK)
    lab.poke(-512, noise(512, 12))
    lab.backup()
    lab.poke(4 * BLOCK + 77, noise(2 * BLOCK, 13))
    lab.poke(12 * BLOCK, noise(BLOCK, 15))
    lab.backup()
    lab.poke(12 * BLOCK, BLOCK)
    lab.backup()


def merged(lab: Lab, point: RecoveryPoint, report=silent) -> merge.MergeResult:
    return merge.run(merge.plan(lab.repository, "disk", point.id), Task(report))


def assert_nothing_happened(lab: Lab, before: dict[str, tuple[str, int]]) -> None:
    assert lab.files == before
    assert [point.sequence for point in lab.set.points] == [1, 2, 3, 4]


def test_a_merge_shares_the_blocks_of_the_child_and_other_readers_read_the_result(lab):
    child = lab.set.points[1]
    result = merged(lab, child)
    assert result.way == (Way.SHARED if MOUNTED else Way.COPIED)
    lab.check_all()
    for number in (3, 4):
        merged(lab, next(point for point in lab.set.points if point.sequence == number))
        lab.check_all()


def test_a_merge_that_shares_blocks_writes_none(lab, monkeypatch):
    def write(*_: object) -> None:
        raise AssertionError

    if MOUNTED:
        monkeypatch.setattr(FORMATS[lab.disk_format].disk, "write", write)
    merged(lab, lab.set.points[2])  # which holds whole blocks of data: others are not shared
    lab.check_without_processes()


def test_the_parent_stays_byte_for_byte_until_the_result_takes_its_name(lab, monkeypatch):
    parent, child = lab.layer(lab.set.points[0]), lab.set.points[1]
    before, renamed = sha256(parent), []
    rename = os.rename

    def watched(source: Path, target: Path) -> None:
        if Path(target) == parent:
            renamed.append(sha256(parent))
        rename(source, target)

    monkeypatch.setattr(os, "rename", watched)
    merged(lab, child)
    assert renamed == ([before] if MOUNTED else [])
    lab.check_all()


def test_parent_and_child_are_offered_and_right_until_the_merged_layer_takes_its_name(lab):
    seen: dict[str, set[tuple[int, ...]]] = {}

    def look(progress: Progress) -> None:
        points = lab.set.points
        seen.setdefault(progress.phase, set()).add(tuple(point.sequence for point in points))
        for point in points:
            lab.check_ours(point)

    merged(lab, lab.set.points[2], look)
    assert not MOUNTED or seen == {"Merge": {(1, 2, 3, 4)}, "Check": {(1, 2, 3, 4)}}
    lab.check_all()


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_plan_and_result_of_a_merge_say_that_blocks_are_shared(lab):
    plan = merge.plan(lab.repository, "disk", lab.set.points[1].id)
    assert ("sharing blocks" in plan.summary) == MOUNTED
    assert (plan.bytes_to_copy == 0) == MOUNTED
    result = merge.run(plan, Task())
    assert ("sharing blocks" in result.way.sentence) == MOUNTED


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
@pytest.mark.parametrize("phase", ["Merge", "Check"])
def test_a_cancelled_merge_is_undone(lab, phase):
    before, cancel = lab.files, CancelToken()

    def stop(progress: Progress) -> None:
        if progress.phase == phase:
            cancel.cancel()

    plan = merge.plan(lab.repository, "disk", lab.set.points[1].id)
    with pytest.raises(Cancelled) as stopped:
        merge.run(plan, Task(stop, cancel))
    if MOUNTED:
        assert stopped.value.advice == "Nothing was changed."
        assert_nothing_happened(lab, before)


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_a_damaged_child_is_refused_by_its_name_and_nothing_has_changed(lab):
    child = lab.set.points[1]
    layer = lab.layer(child)
    layer.chmod(0o600)
    data = bytearray(layer.read_bytes())
    data[data.index(noise(4 * BLOCK, 11)[:512])] ^= 1
    layer.write_bytes(data)
    before = lab.files
    with pytest.raises(Damaged, match=f"{child.disk} is not as it was captured"):
        merged(lab, child)
    assert_nothing_happened(lab, before)


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_merge_without_space_for_sharing_copies_into_the_parent(lab, monkeypatch, number):
    def full(*_: object) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(merged_layer, "clone", full)
    assert merged(lab, lab.set.points[1]).way == Way.COPIED
    lab.check_all()


def test_blocks_that_cannot_be_shared_are_copied_into_the_clone(lab, monkeypatch):
    """Another program's layout: not by the file system's blocks."""

    def unaligned(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(HostFile, "share", unaligned)
    assert merged(lab, lab.set.points[1]).way == (Way.SHARED if MOUNTED else Way.COPIED)
    lab.check_all()


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_a_merge_without_space_for_copying_either_is_refused_with_figures(lab, monkeypatch):
    before = lab.files
    real = durable.shutil.disk_usage
    monkeypatch.setattr(
        durable.shutil, "disk_usage", lambda folder: real(folder)._replace(free=1 << 20)
    )
    with pytest.raises(NoSpace, match=r"may need .* has 1 MiB free"):
        merged(lab, lab.set.points[1])
    assert_nothing_happened(lab, before)


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_a_merged_layer_shares_what_its_parent_shared(lab):
    """While both are there; afterwards it is the only one that is left."""
    shared = []
    rename, child = os.rename, lab.set.points[1]
    parent = lab.layer(lab.set.points[0])

    def watched(source: Path, target: Path) -> None:
        if Path(target) == parent:
            shared.append(shared_bytes(Path(source)))
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", watched)
        merged(lab, child)
    assert not MOUNTED or shared[0] >= 8 * BLOCK  # all but zeros and the last sectors
