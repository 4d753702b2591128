"""An image that ends within a sector: what is restored to a raw file ends where it did."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.oracles import qemu
from tests.sources.opened import open_path
from vdbackup.backup import adopt, convert, repair
from vdbackup.errors import RepositoryError
from vdbackup.jobs import Task
from vdbackup.recovery import restore, verify
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.model import RecoveryPoint

LENGTH = (1 << 20) + 100


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, LENGTH)
    lab.poke(0, noise(LENGTH, 1))
    lab.backup()
    return lab


def restored(lab: Lab, point: RecoveryPoint, set_name: str = "disk", **wanted: str) -> Path:
    target = lab.folder / "restored"
    plan = restore.plan(
        restore.RestoreRequest(lab.repository, set_name, point.id, target, overwrite=True, **wanted)
    )
    assert restore.run(plan, Task()).warnings == ()
    return target


def test_a_raw_file_ends_where_the_image_did(lab):
    (point,) = lab.set.points
    assert (point.exact_size, point.virtual_size) == (LENGTH, LENGTH + 412)
    assert restored(lab, point).read_bytes() == lab.image.read_bytes()


def test_a_virtual_disk_has_whole_sectors(lab):
    (point,) = lab.set.points
    disk = restored(lab, point, disk_format="qcow2")
    raw = lab.folder / "whole.raw"
    raw.write_bytes(lab.image.read_bytes() + bytes(412))
    qemu.assert_holds(disk, raw, "qcow2")


def test_each_point_keeps_the_exact_size_of_its_image(lab):
    with lab.image.open("ab") as image:
        image.write(b"0123456789")
    grown = lab.backup()
    os.truncate(lab.image, LENGTH + 412)
    whole = lab.backup()
    assert [each.exact_size for each in lab.set.points] == [LENGTH, LENGTH + 10, None]
    for point in (grown, whole):
        assert restored(lab, point).read_bytes() == lab.moments[point.id].read_bytes()


def test_a_merge_keeps_the_exact_size_of_the_child(lab):
    with lab.image.open("ab") as image:
        image.write(b"0123456789")
    merged = lab.merge(lab.backup())
    assert merged.exact_size == LENGTH + 10
    assert restored(lab, merged).read_bytes() == lab.image.read_bytes()


def test_a_conversion_keeps_the_exact_size(lab):
    plan = convert.plan(lab.repository, "disk", "qcow2")
    (point,) = convert.run(plan, Task()).points
    assert restored(lab, point, plan.target).read_bytes() == lab.image.read_bytes()


def test_a_raw_base_that_is_adopted_keeps_it_and_its_child_has_whole_sectors(lab):
    tip = lab.folder / "tip.qcow2"
    qemu.make(tip, LENGTH + 412, "qcow2", "-b", str(lab.image), "-F", "raw")
    with open_path(tip) as source:
        plan = adopt.plan(lab.repository, source)
        base, child = adopt.run(plan, Task()).points
    assert (base.exact_size, child.exact_size) == (LENGTH, None)
    assert restored(lab, base, "tip").read_bytes() == lab.image.read_bytes()


def test_a_repair_believes_what_the_damaged_manifest_says_of_it(lab):
    (point,) = lab.set.points
    manifest = manifest_path(lab.set.folder, point)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"stored_bytes": "many"}))
    repair.run(lab.repository.path, Task())
    assert lab.set.points[0].exact_size == LENGTH


def test_a_point_of_an_older_version_is_restored_rounded_up(lab):
    (point,) = lab.set.points
    manifest = manifest_path(lab.set.folder, point)
    said = json.loads(manifest.read_text())
    del said["exact_size"]
    manifest.write_text(json.dumps(said))
    assert restored(lab, lab.set.points[0]).stat().st_size == LENGTH + 412


@pytest.mark.parametrize("size", [0, LENGTH - 512, LENGTH + 412, LENGTH + 1000, -1, "100", 1.5])
def test_a_size_that_does_not_end_within_the_last_sector_is_no_size(lab, size):
    (point,) = lab.set.points
    with pytest.raises(RepositoryError, match="not valid"):
        RecoveryPoint.from_json(point.to_json() | {"exact_size": size})


def test_a_point_of_an_image_that_ends_within_a_sector_is_verified(lab):
    (point,) = lab.set.points
    plan = verify.plan(lab.repository, "disk", (point.id,))
    assert [each.ok for each in verify.run(plan, Task())] == [True]
