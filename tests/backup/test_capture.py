"""Capture: every point, its layer and its overlay, is the disk as it was, for every reader."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.backup.lab import SIZE, Lab
from tests.disks.shelf import Shelf
from tests.noise import noise
from tests.oracles import qemu, readers
from tests.sources.opened import open_path
from vdbackup.backup import capture, repair
from vdbackup.errors import Damaged
from vdbackup.jobs import Progress, Task
from vdbackup.repository.digests import BLOCK, DigestFold
from vdbackup.repository.model import PointType, RecoveryPoint
from vdbackup.repository.repository import Repository

MIB = 1 << 20
LAST = SIZE // BLOCK  # the number of the last block, which is short


def blocks_held(lab: Lab, point: RecoveryPoint) -> list[int]:
    """The numbers of the blocks that the point's own layer holds."""
    with DigestFold([lab.set_folder / point.digests], point.virtual_size) as digests:
        own = digests.held().tolist()
    return [
        n for start, length in own for n in range(start // BLOCK, -(-(start + length) // BLOCK))
    ]


@pytest.mark.each_format
def test_a_full_reads_as_the_disk_that_was_backed_up(lab):
    point = lab.backup()
    assert (point.sequence, point.type, point.parent) == (1, PointType.FULL, None)
    lab.check_all()


@pytest.mark.parametrize("size", [512, BLOCK - 512, BLOCK, BLOCK + 512, MIB, 33 * MIB + 512])
def test_a_disk_of_any_size_is_captured_to_its_last_byte(tmp_path, disk_format, size):
    lab = Lab(tmp_path, size, disk_format=disk_format)
    lab.poke(0, noise(min(size, MIB), 1))
    lab.poke(-512, noise(512, 2))
    lab.backup()
    lab.poke(-1, b"x")
    assert blocks_held(lab, lab.backup()) == [(size - 1) // BLOCK]
    lab.check_all()


def test_an_image_that_ends_within_a_sector_is_filled_up_with_zeros(tmp_path, disk_format):
    lab = Lab(tmp_path, MIB + 100, disk_format=disk_format)
    lab.poke(0, noise(MIB + 100, 1))
    point = lab.backup()
    assert point.virtual_size == MIB + 512
    lab.poke(MIB + 100, 412)  # zeros
    readers.assert_holds(lab.layer(point), lab.image, disk_format)
    readers.assert_holds(lab.overlay(point), lab.image, disk_format)


def test_that_an_image_ends_within_a_sector_is_said_with_its_backup(tmp_path):
    lab = Lab(tmp_path, 1_000_001)
    sentence = (
        f"{lab.image} has 1,000,001 bytes, which are no whole sectors: its backups have "
        "1,000,448 bytes, the last 447 of them zeros; a raw file that is restored from them has as "
        "many as it."
    )
    with open_path(lab.image) as source:
        plan = capture.plan(lab.repository, source, set_name="disk")
    assert sentence in plan.summary
    for _ in range(2):
        result = lab.capture()
        assert (result.notes, result.warnings) == ((sentence,), ())


def test_a_full_stores_neither_holes_nor_zeros(lab):
    lab.poke(2 * BLOCK, 3 * BLOCK)  # zeros that the image stores
    point = lab.backup()
    assert blocks_held(lab, point) == [0, 1, 5, 6, 7, 8, *range(LAST - 5, LAST + 1)]
    assert point.stored_bytes < SIZE
    lab.check_all()


def test_an_image_of_zeros_gives_a_full_that_stores_nothing(tmp_path, disk_format):
    lab = Lab(tmp_path, disk_format=disk_format)
    point = lab.backup()
    assert point.stored_bytes == 0
    lab.check_all()


def test_holes_are_not_read(lab):
    reports: list[Progress] = []
    lab.backup(report=reports.append)
    assert reports[-1].total == reports[-1].done == 14 * BLOCK + 8 * 512


@pytest.mark.each_format
def test_an_incremental_holds_what_changed_since_the_last_point(lab):
    lab.backup()
    lab.poke(3 * BLOCK + 100, b"changed")
    second = lab.backup()
    lab.poke(4 * BLOCK, b"changed")
    third = lab.backup("incremental")
    assert (second.type, third.type) == (PointType.INCREMENTAL, PointType.INCREMENTAL)
    assert third.parent == second.id
    assert blocks_held(lab, second) == [3]
    assert blocks_held(lab, third) == [4]
    lab.check_all()


def test_a_differential_holds_what_changed_since_the_full(lab):
    full = lab.backup()
    lab.poke(3 * BLOCK, b"changed")
    second = lab.backup("differential")
    lab.poke(4 * BLOCK, b"changed")
    third = lab.backup("differential")
    assert second.parent == third.parent == full.id
    assert blocks_held(lab, third) == [3, 4]
    lab.check_all()


def test_a_differential_after_incrementals_hangs_on_their_full(lab):
    full = lab.backup()
    for number in (3, 4):
        lab.poke(number * BLOCK, b"changed")
        lab.backup()
    lab.poke(5 * BLOCK, b"changed")
    differential = lab.backup("differential")
    assert differential.parent == full.id
    assert blocks_held(lab, differential) == [3, 4, 5]
    lab.check_all()


def test_an_incremental_after_a_differential_hangs_on_it(lab):
    lab.backup()
    lab.poke(3 * BLOCK, b"changed")
    differential = lab.backup("differential")
    lab.poke(4 * BLOCK, b"changed")
    incremental = lab.backup()
    assert incremental.parent == differential.id
    assert blocks_held(lab, incremental) == [4]
    lab.check_all()


def test_a_second_full_stands_on_its_own(lab):
    lab.backup()
    lab.poke(BLOCK, b"changed")
    lab.backup()
    full = lab.backup("full")
    assert (full.type, full.parent, full.sequence) == (PointType.FULL, None, 3)
    lab.poke(2 * BLOCK, b"changed")
    later = lab.backup()
    assert later.parent == full.id
    lab.check_all()


def test_an_image_whose_name_is_no_text_is_backed_up(tmp_path):
    image = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xf0\x9f\x92\xbe.img"))
    image.write_bytes(noise(BLOCK, 1))
    repository = Repository.create(tmp_path / "repository")
    captured(repository, image)
    assert repository.set().settings.source.path == str(image)
    assert captured(repository, image).type == PointType.INCREMENTAL


@pytest.mark.parametrize("kind", ["incremental", "differential"])
def test_where_nothing_changed_a_point_holds_nothing(lab, kind):
    lab.backup()
    point = lab.backup(kind)
    assert point.stored_bytes == 0
    lab.check_all()


@pytest.mark.parametrize("offset", [0, 511, BLOCK, 10 * BLOCK + 5, LAST * BLOCK, SIZE - 1])
def test_one_byte_that_changed_is_one_block(lab, offset):
    lab.backup()
    lab.poke(offset, b"\xa5")
    assert blocks_held(lab, lab.backup()) == [offset // BLOCK]
    lab.check_all()


def test_changes_at_both_ends_are_captured(lab):
    lab.backup()
    lab.poke(0, noise(512, 7))
    lab.poke(-512, noise(512, 8))
    assert blocks_held(lab, lab.backup()) == [0, LAST]
    lab.check_all()


@pytest.mark.each_format
def test_zeros_over_data_are_captured_as_zeros(lab):
    lab.backup()
    lab.poke(BLOCK, 2 * BLOCK)
    lab.poke(LAST * BLOCK, 8 * 512)
    point = lab.backup()
    assert blocks_held(lab, point) == [1, 2, LAST]
    lab.check_all()


def test_data_that_was_cut_out_of_the_image_is_captured_as_zeros(lab):
    """The image becomes sparse where it had data: nothing of it is read there any more."""
    lab.backup()
    start = lab.image.read_bytes()[: 3 * BLOCK]
    lab.image.unlink()
    with lab.image.open("wb") as image:
        image.write(start)
        image.truncate(SIZE)
    point = lab.backup()
    assert blocks_held(lab, point) == [*range(3, 9), *range(LAST - 5, LAST + 1)]
    lab.check_all()


def test_data_that_came_back_after_zeros_are_captured(lab):
    old = lab.image.read_bytes()[BLOCK : 2 * BLOCK]
    for data in (BLOCK, old, BLOCK, noise(BLOCK, 9)):
        lab.backup()
        lab.poke(BLOCK, data)
    assert blocks_held(lab, lab.backup()) == [1]
    lab.check_all()


def test_a_long_chain_is_right_at_every_point(lab):
    for number in range(12):
        lab.poke(number * BLOCK + number * 1000, noise(3000, number))
        lab.backup()
    lab.check_all()


def test_a_disk_of_another_size_starts_a_new_full_and_says_why(lab):
    lab.backup()
    with lab.image.open("r+b") as image:
        image.truncate(SIZE + BLOCK)
    result = lab.capture()
    assert result.point.type == PointType.FULL
    assert f"{SIZE:,} bytes" in result.notes[0]  # in MiB both would look the same
    assert f"{SIZE + BLOCK:,} bytes" in result.notes[0]
    assert result.warnings == ()
    lab.poke(-1, b"x")
    assert lab.backup().parent == result.point.id
    lab.check_all()


def test_an_incremental_that_has_to_be_a_full_is_one_with_a_warning(lab):
    result = lab.capture("incremental")
    assert result.point.type == PointType.FULL
    assert "has to be a full" in result.warnings[0]


def test_auto_makes_a_full_where_the_chain_is_broken_and_says_why(lab):
    full = lab.backup()
    shutil.move(lab.layer(full), lab.folder / "gone")
    result = lab.capture()
    assert result.point.type == PointType.FULL
    assert lab.file("0001-full") in result.notes[0]
    assert "missing" in result.notes[0]


def test_a_layer_without_a_manifest_is_said_until_repair_makes_a_point_of_it(lab):
    lab.backup()
    lab.poke(4096, b"the manifest of this one is lost")
    lost = lab.backup()
    lab.set_folder.joinpath(lost.disk).with_suffix(".json").unlink()
    done = lab.capture()
    assert [lost.disk in warning for warning in done.warnings] == [True]
    assert done.point.warnings == ()
    repair.run(lab.repository.path, Task())
    assert lost.id in [point.id for point in lab.set.points]
    assert lab.capture().warnings == ()


def test_an_incremental_onto_a_broken_chain_is_refused(lab):
    full = lab.backup()
    shutil.move(lab.layer(full), lab.folder / "gone")
    with pytest.raises(Damaged, match="missing"):
        lab.backup("incremental")


def test_a_plan_bounds_what_is_stored(lab):
    """Of a block in which one sector holds data all is stored, and zeros after data are, too."""
    with lab.image.open("rb+") as image:
        image.truncate(0)
        image.truncate(SIZE)
        for block in range(0, 20, 3):
            image.seek(block * BLOCK + 4096)
            image.write(b"x" * 512)
    for content in (None, b""):
        if content is not None:
            with lab.image.open("rb+") as image:
                image.truncate(0)
                image.truncate(SIZE)
        with open_path(lab.image) as source:
            plan = capture.plan(lab.repository, source)
            point = capture.run(plan, Task()).point
        assert 0 < point.stored_bytes <= plan.bytes_to_copy


def test_a_plan_says_what_will_be_done(lab):
    lab.backup()
    with open_path(lab.image) as source:
        plan = capture.plan(lab.repository, source)
    assert "incremental recovery point onto point 1" in plan.summary
    assert plan.bytes_to_copy == lab.set.points[0].stored_bytes
    assert not plan.new_set


def test_a_source_finds_its_own_set_again(lab):
    lab.backup()
    with open_path(lab.image) as source:
        assert capture.plan(lab.repository, source).set_name == "disk"


def test_another_source_of_the_same_name_gets_a_set_of_its_own(lab, tmp_path_factory):
    lab.backup()
    other = tmp_path_factory.mktemp("other") / "disk.img"
    other.write_bytes(noise(MIB, 3))
    with open_path(other) as source:
        result = capture.run(capture.plan(lab.repository, source), Task())
    assert result.set_name == "disk-2"
    lab.check_all()


def test_a_change_during_the_capture_is_a_warning_that_stays_with_the_point(lab):
    def write_meanwhile(_: Progress) -> None:
        lab.poke(0, b"meanwhile")

    result = lab.capture(report=write_meanwhile)
    assert "was written to during the capture" in result.warnings[0]
    assert lab.set.points[0].warnings == result.warnings


def test_layers_are_read_only_and_their_time_is_the_points_moment(lab):
    point = lab.backup()
    assert lab.layer(point).stat().st_mode & 0o777 == 0o444
    assert f"{lab.layer(point).stat().st_mtime:.3f}".endswith(point.created[20:23])


def test_the_points_id_is_the_layers_own(lab):
    point = lab.backup()
    disk = lab.open(lab.layer(point))
    assert disk.info.disk_id == point.id
    disk.close()


def test_older_layers_stay_as_they_are_byte_for_byte(lab):
    lab.backup()
    settings = {"disk/set.json", "disk/set.copy.json"}
    before = {name: facts for name, facts in lab.files.items() if name not in settings}
    for number, kind in enumerate(["incremental", "differential", "full"]):
        lab.poke(number * BLOCK, b"changed")
        lab.backup(kind)
    assert {name: lab.files[name] for name in before} == before


# --------------------------------------------------------------------------- VMDK as a source


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path, SIZE)
    shelf.add("a.vmdk", (0, noise(8 * BLOCK, 1)))
    shelf.add("b.vmdk", (BLOCK, 2 * BLOCK), (5 * BLOCK, noise(BLOCK, 2)))
    return shelf


def captured(repository: Repository, path: Path) -> RecoveryPoint:
    with open_path(path) as source:
        return capture.run(capture.plan(repository, source), Task()).point


def test_a_vmdk_with_its_parents_is_captured_as_the_disk_that_it_is(shelf, tmp_path_factory):
    repository = Repository.create(tmp_path_factory.mktemp("r") / "repository")
    top = shelf.folder / "b.vmdk"
    full = captured(repository, top)
    before = shelf.raw_file().rename(shelf.folder / "before.raw")
    qemu.io(top, "write -P 9 300k 3k", "write -P 8 1M 512")
    for offset, length, byte in ((300 << 10, 3 << 10, 9), (MIB, 512, 8)):
        shelf.raw[offset : offset + length] = bytes([byte]) * length
    incremental = captured(repository, top)
    backup_set = repository.set()
    for point, moment in ((full, before), (incremental, shelf.raw_file())):
        qemu.assert_holds(backup_set.disk_path(point), moment)
        qemu.assert_holds(backup_set.overlay_path(point), moment)
    assert incremental.stored_bytes == 2 * BLOCK


def test_a_vmdk_that_is_backed_up_is_not_written_to(shelf, tmp_path_factory):
    repository = Repository.create(tmp_path_factory.mktemp("r") / "repository")
    before = {name: (shelf.folder / name).read_bytes() for name in shelf.names}
    captured(repository, shelf.folder / "b.vmdk")
    assert {name: (shelf.folder / name).read_bytes() for name in shelf.names} == before
