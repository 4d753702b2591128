"""Merge: the parent then stands for the child's moment, and all else reads as it did."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.once import once
from tests.noise import noise
from tests.oracles import distribution, qemu, readers
from vdbackup.backup import merge
from vdbackup.backup.merged_layer import RESERVE
from vdbackup.backup.merged_point import MAX_MERGED, merged_point
from vdbackup.errors import BackupError, Cancelled, Damaged, DiskError, NoSpace, VdbackupError
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.repository.digest_file import REGION
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import PointType, RecoveryPoint


@pytest.fixture
def chain(lab: Lab) -> list[RecoveryPoint]:
    return list(four_points(lab).set.points)


@once
def four_points(lab: Lab) -> None:
    """124 <- 128 <- 132 of the patent, and one more: changes, zeros over data, both ends."""
    lab.backup()
    lab.poke(3 * BLOCK, noise(2 * BLOCK, 11))
    lab.poke(BLOCK, BLOCK)
    lab.poke(-512, noise(512, 12))
    lab.backup()
    lab.poke(4 * BLOCK + 77, noise(2 * BLOCK, 13))
    lab.poke(0, noise(512, 14))
    lab.poke(12 * BLOCK, noise(BLOCK, 15))
    lab.backup()
    lab.poke(12 * BLOCK, BLOCK)
    lab.poke(BLOCK, noise(100, 16))
    lab.backup()


def numbers(lab: Lab) -> list[tuple[int, PointType]]:
    return [(point.sequence, point.type) for point in lab.set.points]


def names(lab: Lab) -> set[str]:
    return {path.name for path in lab.set.folder.iterdir()}


@pytest.mark.each_format
def test_an_incremental_is_rolled_into_its_full(lab, chain):
    result = lab.merge(chain[1])
    assert numbers(lab) == [
        (2, PointType.FULL),
        (3, PointType.INCREMENTAL),
        (4, PointType.INCREMENTAL),
    ]
    assert (result.id, result.parent) == (chain[1].id, None)
    lab.check_all()


def test_space_for_digests_of_few_blocks_in_many_places_is_asked_for_before(tmp_path, monkeypatch):
    """They lie apart while they are written: a merge that had begun could not be finished."""
    lab = Lab(tmp_path, size=8 * REGION * BLOCK)
    for seed in range(2):
        for at in range(0, lab.size, REGION * BLOCK):
            lab.poke(at, noise(512, seed))
        lab.backup()
    before = lab.files
    monkeypatch.setattr(
        "vdbackup.repository.files.free_space", lambda _folder: RESERVE + (64 << 10)
    )
    with pytest.raises(NoSpace, match="Merging point 2 may need"):
        lab.merge(lab.set.points[1])
    assert lab.files == before


@pytest.mark.parametrize("disk_format", ["vmdk", "vhd"])
def test_what_the_parents_tables_could_not_name_is_refused_before_a_merge_begins(
    tmp_path, monkeypatch, disk_format
):
    lab = Lab(tmp_path, 8 << 20, disk_format=disk_format)
    lab.poke(0, noise(BLOCK, 1))
    parent = lab.backup()
    lab.poke(4 << 20, noise(2 * BLOCK, 2))
    child = lab.backup()
    before = lab.files
    monkeypatch.setattr(merge, "can_clone", lambda _: False)  # a clone would be thrown away
    # stands for 2 TiB, and for the gaps that interrupted writers have left up to there
    limit = lab.layer(parent).stat().st_size + BLOCK
    monkeypatch.setattr(f"vdbackup.disks.{disk_format}.disk.MAX_FILE", limit)
    with pytest.raises(DiskError, match="would grow beyond") as refusal:
        lab.merge(child)
    assert refusal.value.advice
    assert lab.files == before
    monkeypatch.undo()
    lab.merge(child)
    lab.check_all()


@pytest.mark.each_format
def test_an_incremental_is_rolled_into_an_incremental_and_its_child_is_linked_anew(lab, chain):
    result = lab.merge(chain[2])
    assert numbers(lab) == [
        (1, PointType.FULL),
        (3, PointType.INCREMENTAL),
        (4, PointType.INCREMENTAL),
    ]
    assert (result.id, result.parent) == (chain[2].id, chain[0].id)
    lab.check_all()


@pytest.mark.parametrize("disk_format", ["vmdk", "vhd"], indirect=True)
def test_merged_layers_are_read_by_the_distributions_own_libraries(lab, chain):
    """Debian's libvmdk looks for the extent by the name that the disk says it has."""
    lab.merge(chain[1])
    lab.merge(chain[3])
    for point in lab.set.points:
        for disk in (lab.layer(point), lab.overlay(point)):
            distribution.assert_holds(disk, lab.moments[point.id])


def test_an_incremental_is_merged_into_an_incremental_and_that_into_the_full(lab, chain):
    lab.merge(chain[2])
    lab.check_all()
    lab.merge(chain[2])
    assert numbers(lab) == [(3, PointType.FULL), (4, PointType.INCREMENTAL)]
    lab.check_all()


def test_a_whole_chain_is_rolled_up_from_either_end(lab, chain):
    for point in chain[1:]:
        lab.merge(point)
        lab.check_all()
    assert numbers(lab) == [(4, PointType.FULL)]


def test_a_whole_chain_is_rolled_up_from_its_newest_point(lab, chain):
    for _ in chain[1:]:
        lab.merge(chain[-1])
        lab.check_all()
    assert numbers(lab) == [(4, PointType.FULL)]


def test_a_backup_after_a_merge_hangs_on_what_it_left(lab, chain):
    lab.merge(chain[3])
    lab.poke(7 * BLOCK, noise(BLOCK, 17))
    point = lab.backup()
    assert (point.sequence, point.parent) == (5, chain[3].id)
    assert point.stored_bytes == BLOCK
    lab.check_all()


def test_a_child_that_holds_nothing_is_rolled_in(lab):
    lab.backup()
    child = lab.backup()
    lab.merge(child)
    assert numbers(lab) == [(2, PointType.FULL)]
    lab.check_all()


def test_a_child_is_rolled_into_a_parent_that_holds_nothing(tmp_path, disk_format):
    lab = Lab(tmp_path, disk_format=disk_format)
    lab.backup()
    lab.poke(5 * BLOCK, noise(BLOCK, 1))
    lab.merge(lab.backup())
    lab.check_all()


def test_a_disk_with_several_tables_is_merged(tmp_path, disk_format):
    lab = Lab(tmp_path, (97 << 20) + 512, disk_format=disk_format)
    lab.poke(0, noise(BLOCK, 1))
    lab.poke(40 << 20, noise(3 * BLOCK, 2))
    lab.backup()
    lab.poke(40 << 20, BLOCK)
    lab.poke((64 << 20) - BLOCK, noise(2 * BLOCK, 3))
    lab.poke(-512, noise(512, 4))
    child = lab.backup()
    lab.poke(70 << 20, noise(BLOCK, 5))
    lab.backup()
    lab.merge(child)
    lab.check_all()


def test_every_point_that_is_offered_during_a_merge_reads_right(lab, chain):
    """Readers take no lock: they see the set as it is at any moment of a merge."""
    seen = set()

    def look(progress: Progress) -> None:
        seen.add(progress.phase)
        for point in lab.set.points:
            lab.check_ours(point)

    with lab.set.open_chain(chain[3]) as opened_before:
        merge.run(merge.plan(lab.repository, "disk", chain[2].id), Task(look))
        data = bytearray(chain[3].virtual_size)
        opened_before.readinto(0, memoryview(data))
    assert data == lab.moments[chain[3].id].read_bytes()
    assert seen == {"Check child", "Merge", "Check"}
    lab.check_all()


def test_the_redundant_files_are_deleted_and_no_others(lab, chain):
    before = names(lab)
    lab.merge(chain[2])
    assert before - names(lab) == {
        lab.file("0002-incremental"),
        "0002-incremental.digests",
        "0002-incremental.json",
        lab.file("0002-overlay"),
    }
    assert names(lab) <= before


def test_layers_and_overlays_that_have_no_part_in_it_stay_byte_for_byte(lab, chain):
    lab.poke(9 * BLOCK, b"changed")
    other = lab.backup("full")
    lab.poke(9 * BLOCK, b"and again")
    later = lab.backup()
    before = lab.files
    lab.merge(chain[2])  # 2 <- 3 <- 4: what reads through 3 is linked anew, and only that
    untouched = [chain[0], other, later]
    for point in untouched:
        stem = f"disk/{Path(point.disk).stem}"
        for name in (
            f"disk/{point.disk}",
            f"{stem}.json",
            f"{stem}.digests",
            f"disk/{point.overlay}",
        ):
            assert lab.files[name] == before[name]
    for name in ("disk/" + lab.file("0004-overlay"), "disk/0004-incremental.digests"):
        assert lab.files[name] == before[name]
    lab.check_all()


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_only_the_descriptor_of_a_grandchild_changes(lab, chain):
    grandchild = lab.layer(chain[3])
    before = grandchild.read_bytes()
    lab.merge(chain[2])
    after = grandchild.read_bytes()
    assert before[:512] + before[21 * 512 :] == after[:512] + after[21 * 512 :]


def test_a_grandchild_keeps_its_mode_and_its_time(lab, chain):
    before = lab.layer(chain[3]).stat()
    lab.merge(chain[2])
    after = lab.layer(chain[3]).stat()
    assert (after.st_mode, round(after.st_mtime, 3)) == (before.st_mode, round(before.st_mtime, 3))


def test_a_retargeted_overlay_keeps_its_data_in_a_merge(lab, chain):
    """Retargeting writes into the overlay of a point; a merge links it anew."""
    overlay = lab.overlay(chain[2])
    disk = lab.open(overlay, writable=True)
    disk.write(6 * BLOCK, memoryview(noise(BLOCK, 21)))
    disk.zero(0, BLOCK)
    disk.flush()
    disk.close()
    with_overlay = bytearray(lab.moments[chain[2].id].read_bytes())
    with_overlay[6 * BLOCK : 7 * BLOCK] = noise(BLOCK, 21)
    with_overlay[:BLOCK] = bytes(BLOCK)
    (lab.folder / "with-overlay.raw").write_bytes(with_overlay)
    for _ in range(2):
        lab.merge(chain[2])
        readers.assert_holds(overlay, lab.folder / "with-overlay.raw", lab.disk_format)
        layer = lab.layer(lab.set.point(chain[2].id))
        readers.assert_holds(layer, lab.moments[chain[2].id], lab.disk_format)


@pytest.mark.parametrize("disk_format", readers.QEMU_READS_CHAINS, indirect=True)
def test_an_overlay_that_qemu_has_written_to_keeps_its_data(lab, chain):
    overlay = lab.overlay(chain[1])
    writes = ("write -P 7 100k 3k", "write -P 8 800k 70k")
    qemu.io(overlay, *writes, disk_format=lab.disk_format)
    with_overlay = bytearray(lab.moments[chain[1].id].read_bytes())
    with_overlay[100 << 10 : 103 << 10] = b"\7" * (3 << 10)
    with_overlay[800 << 10 : 870 << 10] = b"\10" * (70 << 10)
    (lab.folder / "with-overlay.raw").write_bytes(with_overlay)
    lab.merge(chain[1])
    readers.assert_holds(overlay, lab.folder / "with-overlay.raw", lab.disk_format)


def test_an_overlay_that_somebody_deleted_is_made_anew(lab, chain):
    """It is the patch that may be thrown away: its loss must not stand in a merge's way."""
    lab.overlay(chain[2]).unlink()
    lab.overlay(chain[1]).unlink()
    lab.merge(chain[2])
    lab.check_all()


def test_a_merged_point_names_the_points_that_it_stands_for(lab, chain):
    lab.merge(chain[2])
    result = lab.merge(chain[2])
    assert result.merged == (chain[1].id, chain[0].id)  # the one that went last at the end
    assert result.created == chain[2].created
    assert lab.set.point(chain[2].id) == result


def test_stored_bytes_and_size_are_those_of_the_merged_file(lab, chain):
    result = lab.merge(chain[2])
    assert result.disk_size == lab.layer(result).stat().st_size
    assert result.stored_bytes == 7 * BLOCK + 8 * 512


def test_warnings_of_both_stay(lab):
    def meanwhile(_: Progress) -> None:
        lab.poke(0, b"meanwhile")

    lab.backup(report=meanwhile)
    lab.poke(0, b"quiet")
    result = lab.merge(lab.backup())
    assert len(result.warnings) == 1


# --------------------------------------------------------------------------- refused


def test_a_full_has_nothing_to_be_rolled_into(lab, chain):
    refused(lab, chain[0], "has no parent")


def test_a_child_with_siblings_is_not_merged_and_they_are_named(lab, chain):
    lab.poke(0, b"changed")
    sibling = lab.backup("differential")
    refused(lab, chain[1], "point 5 also reads")
    refused(lab, sibling, "point 2 also reads")
    lab.poke(0, b"again")
    lab.backup("differential")
    refused(lab, sibling, "points 2, 6 also read")


def test_after_its_siblings_are_deleted_a_differential_is_merged(lab):
    lab.backup()
    points = []
    for number in range(3):
        lab.poke(number * BLOCK, b"changed")
        points.append(lab.backup("differential"))
    lab.delete(points[0])
    lab.delete(points[1])
    lab.merge(points[2])
    assert numbers(lab) == [(4, PointType.FULL)]
    lab.check_all()


def test_an_incremental_is_rolled_into_a_differential(lab):
    lab.backup()
    lab.poke(0, b"one")
    lab.backup("differential")
    lab.poke(BLOCK, b"two")
    child = lab.backup("incremental")
    lab.poke(2 * BLOCK, b"three")
    lab.backup("differential")
    lab.merge(child)
    assert numbers(lab) == [
        (1, PointType.FULL),
        (3, PointType.DIFFERENTIAL),
        (4, PointType.DIFFERENTIAL),
    ]
    lab.check_all()


def test_a_child_whose_data_are_damaged_is_not_merged(lab, chain):
    """The parent's good data must not be written over by it."""
    flip(lab.layer(chain[2]), noise(BLOCK, 15))
    refused(lab, chain[2], "not as it was captured", Damaged)
    assert lab.set.journal is None
    for point in chain[:2]:
        lab.check_ours(point)


@pytest.mark.parametrize("which", [0, 1])
def test_a_merge_with_a_missing_layer_is_refused(lab, chain, which):
    shutil.move(lab.layer(chain[which]), lab.folder / "gone")
    refused(lab, chain[1], "missing", Damaged)


@pytest.mark.parametrize("which", [0, 1])
def test_a_merge_with_a_layer_that_was_cut_off_is_refused(lab, chain, which):
    layer = lab.layer(chain[which])
    layer.chmod(0o600)
    with layer.open("r+b") as file:
        file.truncate(layer.stat().st_size - BLOCK)
    refused(lab, chain[1], "cut off or altered", Damaged)


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)  # only a CID shows it
def test_a_merge_into_a_parent_that_another_program_wrote_to_is_refused(lab, chain):
    layer = lab.layer(chain[0])
    layer.chmod(0o600)
    qemu.io(layer, "write -P 1 0 512")
    refused(lab, chain[1], "another program has written to it")


def test_a_merge_without_the_digests_of_the_child_is_refused(lab, chain):
    (lab.set.folder / chain[1].digests).unlink()
    refused(lab, chain[1], "0002-incremental.digests is missing")


def test_a_merge_without_the_digests_of_the_parent_is_refused_before_it_begins(lab, chain):
    (lab.set.folder / chain[0].digests).unlink()
    refused(lab, chain[1], "0001-full.digests is missing")


def test_a_merge_whose_grandchild_is_missing_is_refused_before_it_begins(lab, chain):
    shutil.move(lab.layer(chain[3]), lab.folder / "gone")
    refused(lab, chain[2], "missing", Damaged)


def test_a_merge_whose_overlay_is_damaged_is_refused_before_it_begins(lab, chain):
    with lab.overlay(chain[1]).open("r+b") as file:
        file.truncate(1000)
    refused(lab, chain[1], lab.file("0002-overlay") + " is damaged")


def test_a_plan_that_is_out_of_date_never_merges_something_else(lab, chain):
    """Point 3 was to go into 2. Meanwhile it did; done again it would go into the full."""
    plan = merge.plan(lab.repository, "disk", chain[2].id)
    lab.merge(chain[2])
    with pytest.raises(BackupError, match="meanwhile") as refusal:
        merge.run(plan, Task())
    assert refusal.value.advice
    assert numbers(lab)[0] == (1, PointType.FULL)
    lab.check_all()


def test_a_cancelled_check_changes_nothing(lab, chain):
    before = lab.files
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        merge.run(merge.plan(lab.repository, "disk", chain[2].id), Task(cancel=cancel))
    assert lab.files == before


def cancelled_while_copying(lab: Lab, point: RecoveryPoint) -> None:
    assert "finished" in lab.merge_half(point).advice  # not "Nothing was changed."


def test_a_merge_that_is_cancelled_while_copying_offers_all_but_the_parent(lab, chain):
    cancelled_while_copying(lab, chain[2])
    assert [point.sequence for point in lab.set.points] == [1, 3, 4]
    for point in lab.set.points:
        lab.check_ours(point)
        readers.assert_holds(lab.overlay(point), lab.moments[point.id], lab.disk_format)


def test_a_merge_that_was_cancelled_is_finished_by_the_next_operation(lab, chain):
    cancelled_while_copying(lab, chain[2])
    lab.poke(0, b"changed")
    lab.backup()
    assert [point.sequence for point in lab.set.points] == [1, 3, 4, 5]
    lab.check_all()


def test_merging_again_what_was_cancelled_finishes_it_and_merges_no_more(lab, chain):
    cancelled_while_copying(lab, chain[2])
    result = lab.merge(chain[2])
    assert result.id == chain[2].id
    assert [point.sequence for point in lab.set.points] == [1, 3, 4]
    lab.check_all()


def test_deleting_what_a_cancelled_merge_was_to_remove_finishes_it(lab, chain):
    cancelled_while_copying(lab, chain[2])
    lab.delete(chain[1])
    assert [point.sequence for point in lab.set.points] == [1, 3, 4]
    lab.check_all()


def flip(path: Path, held: bytes) -> None:
    """A bit of these bytes, which the file holds."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[data.index(held)] ^= 1
    path.write_bytes(data)


def refused(
    lab: Lab, point: RecoveryPoint, match: str, kind: type[VdbackupError] = VdbackupError
) -> None:
    """The merge is refused by a sentence, and every file stays as it is."""
    before = lab.files
    with pytest.raises(kind, match=match) as refusal:
        lab.merge(point)
    assert refusal.value.title
    assert refusal.value.advice
    assert lab.files == before


# ----------------------------------------------------------------------- for years


def test_a_manifest_does_not_grow_with_each_point_that_is_rolled_into_it(tmp_path):
    """A policy rolls one point after the other into the same one, and writes it each time."""
    oldest = _stood_for(Lab(tmp_path).backup(), MAX_MERGED + 5)
    lengths = []
    for number in range(10_000):
        newer = replace(
            oldest,
            id=f"{number:036d}",
            merged=(),
            merged_before=0,
            warnings=(f"/dev/sdb was written to ({number} MiB) during the capture.",),
        )
        oldest = merged_point(oldest, newer)
        if number % 1000 == 999:
            lengths.append(len(json.dumps(oldest.to_json())))
    assert lengths[-1] - lengths[0] < 100
    assert oldest.merged_count == MAX_MERGED + 5 + 10_000
    assert oldest.merged[-1] == f"{9998:036d}"
    assert oldest.warnings[0].startswith("Older warnings")
    assert oldest.warnings[-1] == "/dev/sdb was written to (9999 MiB) during the capture."


def test_a_manifest_of_before_names_all_that_it_stands_for(lab, chain):
    """Older versions kept every id; the next merge keeps the last ones, and how many there were."""
    lab.repository.save_point(lab.set.name, _stood_for(chain[0], 1000))
    assert len(lab.set.points[0].merged) == 1000
    result = lab.merge(chain[1])
    assert result.merged[-1] == chain[0].id
    assert (len(result.merged), result.merged_count) == (MAX_MERGED, 1001)
    assert lab.set.point(result.id) == result


def test_a_merged_point_names_its_parent_however_many_its_child_stood_for(lab, chain):
    """By it an interrupted merge is known to have been this one."""
    lab.repository.save_point(lab.set.name, _stood_for(chain[1], MAX_MERGED))
    assert lab.merge(lab.set.point(chain[1].id)).merged[-1] == chain[0].id


def _stood_for(point: RecoveryPoint, count: int) -> RecoveryPoint:
    return replace(point, merged=tuple(f"{number:036x}" for number in range(count)))
