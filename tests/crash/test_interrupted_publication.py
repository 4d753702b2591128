"""A backup or a deletion that ends between two of its renames: done or not begun, and no repair."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.crash import overlays
from tests.crash.kept import ended_before_each_change
from tests.crash.operations import two_points
from vdbackup.backup import delete, merge, repair
from vdbackup.jobs import Task
from vdbackup.recovery.retarget import report
from vdbackup.repository import naming, publication


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    return two_points(Lab(tmp_path, disk_format=disk_format))


@pytest.fixture
def one_format(tmp_path: Path) -> Lab:
    return two_points(Lab(tmp_path))


def numbers(lab: Lab) -> list[int]:
    return [point.sequence for point in lab.set.points]


def opened(lab: Lab) -> None:
    merge.recover(lab.repository, Task())


def next_backup(lab: Lab) -> None:
    lab.poke(0, b"changed since")
    result = lab.capture()
    assert result.warnings == ()


def next_deletion(lab: Lab) -> None:
    delete.run(delete.plan(lab.repository, "disk", lab.set.points[0].id), Task())


def repaired(lab: Lab) -> None:
    said = repair.run(lab.repository.path, Task())
    assert not any("rebuilt" in sentence for sentence in said.done)


NEXT = [opened, next_backup, next_deletion, repaired]


def know_the_new_point(lab: Lab) -> None:
    """Any that was captured from the image as it is."""
    copy = lab.folder / "as-captured.img"
    if not copy.exists():
        copy.write_bytes(lab.image.read_bytes())
    for point in lab.set.points:
        lab.moments.setdefault(point.id, copy)


def at_each_change(lab: Lab, act: Callable[[], object]) -> list[bool]:
    """What the next operation finds after each end of `act`; whether point 3 was there then."""
    load = lab.save_disk()
    found = []
    for number, moment in enumerate(ended_before_each_change(lab.repository.path, act)):
        moment.bring_back()
        with lab.repository.lock("looking"):
            merge.publish_begun(lab.repository, "disk")
        know_the_new_point(lab)
        found.append(3 in numbers(lab))
        moment.bring_back()
        NEXT[number % len(NEXT)](lab)
        know_the_new_point(lab)
        opened(lab)
        assert lab.set.unlisted_layers() == []
        for point in lab.set.points:
            lab.check_ours(point)
        lab.backup("incremental")
        lab.check_files()
        load()
        (lab.folder / "as-captured.img").unlink()
    return found


def test_a_backup_that_ends_at_any_change_is_there_or_not_begun_without_a_repair(lab):
    found = at_each_change(lab, lab.capture)
    # before its manifest is durable it was never begun; from then on it always exists
    assert found == sorted(found)
    assert found.count(True) >= 4


def test_a_deletion_that_ends_at_any_change_is_done_or_not_begun_without_a_repair(
    one_format,
):
    lab = one_format
    third = lab.backup()
    found = at_each_change(lab, lambda: lab.delete(third))
    assert found == sorted(found, reverse=True)
    assert found.count(True) >= 4


def half_published(lab: Lab, renamed: int = 4) -> str:
    """A backup that ends after so many renames in the set's folder; its layer's stem.

    By 0 all of it lies in flight, by 3 all but the manifest bears its name.
    """
    point = lab.backup()
    stem = naming.stem_of(point.disk)
    names = (f"{stem}.json", point.overlay, point.digests, point.disk)
    for name in names[: 4 - renamed]:
        (lab.set_folder / name).rename(lab.set_folder / f"{name}.partial")
    assert numbers(lab) == [1, 2]
    return stem


@pytest.mark.parametrize("renamed", range(4))
def test_a_point_of_which_all_was_durable_is_finished_when_the_repository_is_opened(
    one_format, renamed
):
    lab = one_format
    half_published(lab, renamed)
    assert merge.recover(lab.repository, Task()).done == (
        "disk: an interrupted backup was finished: point 3.",
    )
    lab.check_all()
    assert lab.set.settings.last_sequence == 3


def test_what_a_killed_backup_wrote_is_durable_before_it_gets_its_name(one_format, monkeypatch):
    lab = one_format
    stem = half_published(lab, 0)
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noted_rename(source: Path, target: Path) -> None:
        events.append(("rename", Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    opened(lab)
    first = events.index(("rename", f"{stem}.vmdk"))
    manifest = events.index(("rename", f"{stem}.json"))
    assert events.index(("sync", f"{stem}.json.partial")) < events.index(("sync", "disk")) < first
    assert first < events.index(("sync", "disk"), first) < manifest
    assert ("sync", "disk") in events[manifest:]


def test_the_next_backup_finishes_the_interrupted_one_and_goes_on_from_it(one_format):
    lab = one_format
    half_published(lab, 3)
    lab.poke(0, b"changed since")
    result = lab.capture()
    assert result.notes[0] == "disk: an interrupted backup was finished: point 3."
    assert result.warnings == ()
    assert lab.set.point(result.point.parent).sequence == 3
    lab.moments[result.point.id] = lab.image
    lab.check_all()


def test_a_number_whose_point_was_finished_and_deleted_is_not_given_again(one_format):
    lab = one_format
    half_published(lab, 2)
    opened(lab)
    lab.delete(lab.set.points[-1])
    assert lab.backup().sequence == 4


def test_a_reader_neither_sees_nor_touches_what_lies_in_flight(one_format):
    lab = one_format
    half_published(lab, 3)
    before = lab.files
    assert numbers(lab) == [1, 2]
    lab.check_ours(lab.set.points[-1])
    assert lab.files == before


def test_what_lies_in_flight_is_left_alone_while_another_program_writes(one_format):
    lab = one_format
    half_published(lab, 0)
    before = lab.files
    with lab.repository.lock("publishing"):
        assert merge.recover(lab.repository, Task()) == merge.Recovered()
    assert lab.files == before


def test_a_point_whose_parent_is_being_merged_is_published_before_that_goes_on(one_format):
    """A backup goes on while a merge waits; what it makes hangs on what the merge takes."""
    lab = one_format
    lab.merge_half(lab.set.points[-1])
    assert lab.set.journal is not None
    with open_for_capture(lab) as draft:
        draft.complete(())
        point = draft.publish()
    names = (f"{naming.stem_of(point.disk)}.json", point.overlay, point.digests, point.disk)
    for name in names:
        (lab.set_folder / name).rename(lab.set_folder / f"{name}.partial")
    lab.moments[point.id] = lab.moments[lab.set.points[-1].id]
    assert merge.recover(lab.repository, Task()).done == (
        "disk: an interrupted backup was finished: point 3.",
        "disk: an interrupted merge was finished: point 2.",
    )
    lab.check_all()


def open_for_capture(lab: Lab):
    from vdbackup.repository.draft import Draft
    from vdbackup.repository.naming import PointType

    last = lab.set.points[-1]
    return Draft(lab.set, PointType.INCREMENTAL, last, last.virtual_size, last.sector_size)


def test_a_retargeted_point_whose_deletion_was_cut_off_has_its_report_again(one_format):
    lab = one_format
    third = lab.backup()
    overlays.retarget_by_patches(lab, third)
    for moment in ended_before_each_change(lab.repository.path, lambda: lab.delete(third)):
        moment.bring_back()
        opened(lab)
        if 3 in numbers(lab):
            assert report.load(lab.set, third) is not None


# ------------------------------------------------------------------------------- what is no point


def cut_the_text(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def link_to_the_text(path: Path) -> None:
    path.rename(path.parent.parent.parent / "elsewhere.json")
    path.symlink_to(path.parent.parent.parent / "elsewhere.json")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def speak_of_another(path: Path) -> None:
    said = json.loads(path.read_text())
    said["disk"] = "0001-full.vmdk"
    path.write_text(json.dumps(said))


def lead_out_of_the_folder(path: Path) -> None:
    said = json.loads(path.read_text())
    said["disk"] = "../../disk.img"
    path.write_text(json.dumps(said))


def another_number(path: Path) -> None:
    said = json.loads(path.read_text())
    said["sequence"] = 7
    path.write_text(json.dumps(said))


def another_id(path: Path) -> None:
    said = json.loads(path.read_text())
    said["id"] = "0" * 8 + said["id"][8:]
    path.write_text(json.dumps(said))


def another_length(path: Path) -> None:
    said = json.loads(path.read_text())
    said["disk_size"] += 512
    path.write_text(json.dumps(said))


@pytest.mark.parametrize(
    "spoil",
    [
        cut_the_text,
        link_to_the_text,
        pipe,
        speak_of_another,
        lead_out_of_the_folder,
        another_number,
        another_id,
        another_length,
    ],
)
def test_a_manifest_in_flight_that_is_not_its_layers_makes_no_point(one_format, spoil):
    lab = one_format
    stem = half_published(lab, 0)
    image = lab.image.read_bytes()
    spoil(lab.set_folder / f"{stem}.json.partial")
    opened(lab)
    assert numbers(lab) == [1, 2]
    assert not list(lab.set_folder.glob("*.partial"))
    assert lab.image.read_bytes() == image
    lab.check_all()


@pytest.mark.parametrize("ending", [".vmdk", ".digests"])
def test_where_a_file_is_missing_or_is_a_link_nothing_in_flight_is_a_point(one_format, ending):
    lab = one_format
    stem = half_published(lab, 0)
    path = lab.set_folder / f"{stem}{ending}.partial"
    path.rename(lab.folder / "elsewhere")
    path.symlink_to(lab.folder / "elsewhere")
    opened(lab)
    assert numbers(lab) == [1, 2]
    assert (lab.folder / "elsewhere").exists()
    lab.check_all()


def test_a_layer_in_place_whose_manifest_in_flight_does_not_fit_stays(one_format):
    """Nothing that bears a name is deleted that was not shown in a plan."""
    lab = one_format
    stem = half_published(lab, 3)
    another_id(lab.set_folder / f"{stem}.json.partial")
    opened(lab)
    assert lab.set.unlisted_layers() == [f"{stem}.vmdk"]


def test_a_newer_manifest_that_was_cut_off_is_no_second_point(one_format):
    lab = one_format
    manifest = lab.set_folder / "0002-incremental.json"
    (lab.set_folder / "0002-incremental.json.partial").write_bytes(manifest.read_bytes())
    assert publication.begun(lab.set_folder) == []
    lab.backup()
    lab.check_all()


def test_a_copy_of_a_point_under_another_number_is_not_made_one(one_format):
    lab = one_format
    for path in list(lab.set_folder.glob("0001-*")):
        text = path.read_bytes()
        if path.suffix == ".json":
            said = json.loads(text.replace(b"0001", b"0007"))
            text = json.dumps({**said, "sequence": 7}).encode()
        (lab.set_folder / (path.name.replace("0001", "0007") + ".partial")).write_bytes(text)
    opened(lab)
    assert numbers(lab) == [1, 2]
    lab.check_all()
