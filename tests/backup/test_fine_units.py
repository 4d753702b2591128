"""Points in units of 8 KiB: what the operations do with them that they do in 64 KiB otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.test_damage import damage
from tests.noise import noise
from tests.oracles import qemu
from vdbackup.backup import convert, repair
from vdbackup.disks.disk import FINE_UNIT, UNIT
from vdbackup.disks.extents import as_ranges
from vdbackup.errors import Damaged
from vdbackup.jobs import Task
from vdbackup.operations import restore
from vdbackup.recovery import verify
from vdbackup.recovery.history.seen import Seen

QEMU_NAMES = {"raw": "raw", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx", "qcow2": "qcow2"}


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    """A full, and two incrementals that hold parts of units of 64 KiB."""
    lab = Lab(tmp_path, disk_format=disk_format, unit=FINE_UNIT)
    lab.poke(0, noise(6 * UNIT, 1))
    lab.backup()
    for number in (2, 3):
        lab.poke(number * FINE_UNIT, noise(FINE_UNIT, number))
        lab.poke(3 * UNIT + 5 * FINE_UNIT, noise(FINE_UNIT, number + 10))
        lab.poke(-512, noise(512, number))
        lab.backup()
    return lab


def units_of(lab: Lab) -> set[int]:
    found = set()
    for point in lab.set.points:
        with lab.set.open_digests(point) as digests:
            found.add(digests.block)
    return found


@pytest.mark.each_format
def test_what_changed_is_kept_and_nothing_beside_it(lab: Lab):
    end = lab.size % FINE_UNIT
    assert [point.stored_bytes for point in lab.set.points[1:]] == [2 * FINE_UNIT + end] * 2
    assert units_of(lab) == {FINE_UNIT}
    lab.check_all()


def test_a_chain_goes_on_in_its_units_whatever_its_source_would_have(lab: Lab):
    lab.unit = UNIT
    lab.poke(UNIT, noise(FINE_UNIT, 5))
    assert lab.backup().stored_bytes == FINE_UNIT
    assert units_of(lab) == {FINE_UNIT}
    lab.backup("full")
    assert units_of(lab) == {FINE_UNIT, UNIT}
    lab.check_all()


@pytest.mark.each_format
@pytest.mark.parametrize("lost", [(1,), (2,), (3,), (1, 2, 3)], ids=str)
def test_digests_that_are_lost_are_made_again_in_the_units_of_their_chain(lab: Lab, lost):
    """Of a full in VHD or VHDX alone nothing tells them: its children do."""
    for point in lab.set.points:
        if point.sequence in lost:
            (lab.set.folder / point.digests).unlink()
    assert len(repair.run(lab.repository.path, Task()).done) == len(lost)
    assert units_of(lab) == {FINE_UNIT}
    lab.check_all()
    lab.merge(lab.set.points[1])
    lab.merge(lab.set.points[1])
    lab.check_all()


@pytest.mark.parametrize("target", QEMU_NAMES)
def test_a_restored_disk_is_the_point_in_any_format(lab: Lab, tmp_path: Path, target: str):
    point, path = lab.set.points[-1], tmp_path / f"restored.{target}"
    request = restore.RestoreRequest(lab.repository, "disk", point.id, path, target)
    assert restore.run(restore.plan(request), Task()).warnings == ()
    qemu.assert_holds(path, lab.moments[point.id], QEMU_NAMES[target])


def test_a_set_is_converted_into_another_format_in_its_units(lab: Lab):
    other = "vhd" if lab.disk_format != "vhd" else "qcow2"
    convert.run(convert.plan(lab.repository, "disk", other, "other"), Task())
    converted = lab.repository.set("other")
    for point, moment in zip(converted.points, lab.moments.values(), strict=True):
        data = bytearray(point.virtual_size)
        with converted.open_chain(point) as chain, converted.open_digests(point) as digests:
            assert digests.block == FINE_UNIT
            chain.readinto(0, memoryview(data))
        assert data == moment.read_bytes()


def test_damage_is_named_by_its_unit_and_never_restored(lab: Lab, tmp_path: Path):
    second, last = lab.set.points[1:]
    damage(lab, lab.layer(second), 2 * FINE_UNIT)
    for point in (second, last):
        (verdict,) = verify.run(verify.plan(lab.repository, "disk", (point.id,)), Task())
        (finding,) = verdict.findings
        assert (finding.file, finding.offset) == (second.disk, 2 * FINE_UNIT)
        assert finding.length == FINE_UNIT
        path = tmp_path / "restored.img"
        request = restore.RestoreRequest(lab.repository, "disk", point.id, path)
        with pytest.raises(Damaged, match=f"{second.disk} is damaged"):
            restore.run(restore.plan(request), Task())
        assert not path.exists()


def test_what_was_read_of_a_point_is_known_to_be_so_in_another_by_all_that_a_unit_has(lab: Lab):
    first, second, _ = lab.set.points
    with lab.set.open_digests(first) as then, lab.set.open_digests(second) as now:
        for unit, same in ((0, False), (3, False), (4, True), (lab.size // UNIT, False)):
            seen = Seen.of(as_ranges([(unit * UNIT, 512)]), first, then)
            assert seen.is_in(first, then)
            assert seen.is_in(second, now) is same
