"""Repair: the catalogue is in the disks; what of it is lost or damaged is made again from them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.backup.lab import SIZE, Lab
from tests.backup.once import once
from tests.noise import noise
from vdbackup.backup import repair
from vdbackup.backup.quarantine import QUARANTINE
from vdbackup.disks.chain import Chain
from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.errors import RepositoryError
from vdbackup.jobs import Task
from vdbackup.recovery import verify
from vdbackup.repository import repository
from vdbackup.repository.backup_set import point_files
from vdbackup.repository.digest_writer import DigestWriter
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.journal import Journal
from vdbackup.repository.model import SetSettings
from vdbackup.repository.policy import BootTests, Policy
from vdbackup.repository.repository import Repository


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    return five_points(Lab(tmp_path, SIZE, disk_format=disk_format))


@once
def five_points(lab: Lab) -> None:
    """1 <- 2 <- 3, a differential 4 on 1, a full 5; zeros over data among it."""
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.backup()
    lab.poke(BLOCK, 2 * BLOCK)
    lab.poke(-512, noise(512, 2))
    lab.backup()
    lab.poke(BLOCK, noise(100, 3))
    lab.backup()
    lab.backup("differential")
    lab.poke(5 * BLOCK, BLOCK)
    lab.backup("full")


def repaired(lab: Lab) -> list[str]:
    said = repair.run(lab.repository.path, Task())
    return [*said.done, *map(str, said.undone)]


def lose_all_but_layers(lab: Lab) -> None:
    for path in lab.set_folder.iterdir():
        if path.stat().st_mode & 0o777 != 0o444:
            path.unlink()


def assert_as_before(lab: Lab) -> None:
    """The same points, with the same parents; and a backup goes on from there."""
    assert [(point.sequence, point.type.value) for point in lab.set.points] == [
        (1, "full"), (2, "incremental"), (3, "incremental"), (4, "differential"), (5, "full"),
    ]  # fmt: skip
    ids = [point.id for point in lab.set.points]
    assert [point.parent for point in lab.set.points] == [None, ids[0], ids[1], ids[0], None]
    lab.check_all()
    assert all(v.ok for v in verify.run(verify.plan(lab.repository, "disk"), Task()))


def test_a_set_that_was_in_the_making_is_passed_over(lab):
    shutil.copytree(lab.set_folder, lab.repository.path / "new.partial")
    before = lab.files
    assert repaired(lab) == []
    assert lab.files == before


def misname(disk: Path) -> None:
    """Leave another name in a VMDK's extent line, as merges did once."""
    disk.chmod(0o644)
    data = disk.read_bytes()
    named = f'SPARSE "{disk.name}"'.encode()
    assert data.count(named) == 1
    disk.write_bytes(data.replace(named, named.replace(b"000", b"009")))


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_disks_that_say_another_name_than_their_own_are_read_and_mended(lab):
    for point in lab.set.points:
        before = lab.layer(point).stat()
        misname(lab.layer(point))
        os.utime(lab.layer(point), ns=(before.st_atime_ns, before.st_mtime_ns))
        lab.layer(point).chmod(0o444)
    misname(lab.overlay(lab.set.points[1]))
    for point in lab.set.points:
        lab.check_ours(point)
    assert len(repaired(lab)) == 6
    assert_as_before(lab)


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_a_merge_mends_the_name_of_every_layer_that_it_writes_to(lab):
    for point in lab.set.points[:2]:
        misname(lab.layer(point))
        lab.layer(point).chmod(0o444)
    lab.delete(lab.set.points[3])
    lab.merge(lab.set.points[1])
    lab.check_all()


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
@pytest.mark.parametrize("said", ['{"layout": "1"', '{"id": "%s"}', '{"layout": "2", "id": "%s"}'])
def test_a_damaged_mark_of_the_repository_is_kept_before_it_is_written_anew(lab, said):
    own_id = Repository.open(lab.repository.path).id
    marker = lab.repository.path / "vdbackup.json"
    damaged = said.replace("%s", own_id)
    marker.write_text(damaged)
    with pytest.raises(RepositoryError, match=r"vdbackup\.json is damaged"):
        Repository.open(lab.repository.path)
    assert "vdbackup.json was written anew." in repaired(lab)
    kept = lab.repository.path / QUARANTINE / "vdbackup.json"
    assert kept.read_text() == damaged
    assert (Repository.open(lab.repository.path).id == own_id) == (own_id in damaged)
    assert_as_before(lab)


def test_a_repair_of_a_whole_repository_changes_nothing(lab):
    before = lab.files
    assert repaired(lab) == []
    assert lab.files == before


@pytest.mark.parametrize("pattern", ["*.json", "*.digests", "*-overlay.*"])
def test_lost_files_are_made_again_from_the_layers(lab, pattern):
    for path in lab.set_folder.glob(pattern):
        path.unlink()
    assert repaired(lab)
    assert_as_before(lab)
    assert repaired(lab) == []


@pytest.mark.parametrize("pattern", ["*.json", "*.digests"])
def test_damaged_files_are_made_again_from_the_layers(lab, pattern):
    damaged = {}
    for path in lab.set_folder.glob(pattern):
        path.write_bytes(path.read_bytes()[:-20])
        damaged[path.name] = path.read_bytes()
    assert repaired(lab)
    kept = lab.folder / "kept"
    (lab.set_folder / QUARANTINE).rename(kept)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == damaged
    assert_as_before(lab)


@pytest.mark.parametrize("put", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("set.json")])
def test_what_is_no_file_of_digests_is_put_aside_and_they_are_computed_anew(lab, put):
    digests = lab.set_folder / "0002-incremental.digests"
    digests.unlink()
    put(digests)
    repaired(lab)
    (lab.set_folder / QUARANTINE).rename(lab.folder / "kept")
    lab.check_without_processes()


def test_digests_of_a_disk_of_another_size_are_computed_anew(lab):
    digests = lab.set_folder / "0002-incremental.digests"
    digests.unlink()
    writer = DigestWriter(digests, SIZE + BLOCK)
    writer.finish()
    repaired(lab)
    (lab.set_folder / QUARANTINE).rename(lab.folder / "kept")
    lab.check_without_processes()


@pytest.mark.parametrize("number", [2, 7])
def test_an_interrupted_merge_is_finished_with_the_manifests_that_are_rebuilt(lab, number):
    lab.delete(lab.set.points[3])
    lab.backup("incremental")  # 6 on 5
    lab.poke(0, noise(5, 9))
    lab.backup()  # 7 on 6
    *_, fifth, sixth, seventh = lab.set.points
    Journal(fifth, sixth).save(lab.set_folder)  # as a crash left it, before the first byte went
    damaged = {2: lab.set.points[1], 7: seventh}[number]
    (lab.set_folder / damaged.disk).with_suffix(".json").write_text("{")
    for name in (damaged.digests, damaged.overlay):  # a repair was cut off, too
        (lab.set_folder / name).rename(lab.set_folder / f"{name}.partial")
    assert any("an interrupted merge was finished" in sentence for sentence in repaired(lab))
    assert [point.sequence for point in lab.set.points] == [1, 2, 3, 6, 7]
    (lab.set_folder / QUARANTINE).rename(lab.folder / "kept")
    lab.check_without_processes()


@pytest.mark.each_format
def test_a_repository_that_lost_all_but_its_layers_is_one_again(lab):
    (lab.repository.path / "vdbackup.json").unlink()
    lose_all_but_layers(lab)
    repaired(lab)
    assert Repository.open(lab.repository.path).id != lab.repository.id
    assert_as_before(lab)


def test_moments_come_back_from_the_layers_times(lab):
    before = [point.created for point in lab.set.points]
    for path in lab.set_folder.glob("*.json"):
        path.unlink()
    repaired(lab)
    assert [point.created for point in lab.set.points] == before


def test_a_backup_goes_on_after_a_repair(lab):
    lose_all_but_layers(lab)
    repaired(lab)
    lab.poke(7 * BLOCK, noise(BLOCK, 9))
    lab.set_folder.joinpath("set.json").write_text(
        json.dumps(
            json.loads(lab.set_folder.joinpath("set.json").read_text())
            | {"source": {"id": f"file:{lab.image}", "name": "disk", "path": str(lab.image)}}
        )
    )
    assert lab.backup().stored_bytes == BLOCK
    lab.check_all()


CHOSEN = Policy(keep=7, retarget=False, boot_test=BootTests.EACH)


@pytest.fixture
def chosen(lab: Lab) -> SetSettings:
    """Settings that no disk tells."""
    lab.repository.save_settings(
        "disk",
        replace(lab.set.settings, policy=CHOSEN, source_format="raw", continues="older"),
    )
    return lab.set.settings


def lose_settings(lab: Lab, content: str | None) -> None:
    path = lab.set_folder / "set.json"
    was = path.stat()
    path.unlink()
    if content is not None:
        path.write_text(content)
        os.utime(
            path, ns=(was.st_atime_ns, was.st_mtime_ns)
        )  # what goes bad on a disk is not newer


@pytest.mark.parametrize("content", [None, "", "{", '{"policy": {"keep": 1}}'])
def test_settings_that_are_lost_come_back_from_their_copy(lab, chosen, content):
    lose_settings(lab, content)
    assert any("set.json was written anew from its copy" in sentence for sentence in repaired(lab))
    assert lab.set.settings == chosen
    assert repaired(lab) == []


def test_a_retention_number_from_an_old_copy_of_the_settings_is_not_used(lab, chosen):
    """An older version changes `set.json` alone: it made point 6, and perhaps keeps more."""
    copy = (lab.set_folder / "set.copy.json").read_bytes()
    lab.backup()
    (lab.set_folder / "set.copy.json").write_bytes(copy)
    lose_settings(lab, "{")
    assert any("7, may be another by now" in sentence for sentence in repaired(lab))
    assert lab.set.settings.policy == replace(CHOSEN, keep=None)
    assert (lab.set.settings.source_format, lab.set.settings.continues) == ("raw", "older")
    assert lab.set.settings.last_sequence == 6


def test_a_retention_number_that_an_older_version_has_changed_since_is_not_used(lab, chosen):
    """It writes `set.json` alone, and that is damaged before there is another point."""
    (lab.set_folder / "set.json").write_text(json.dumps(chosen.to_json())[:-9])
    assert any("7, may be another by now" in sentence for sentence in repaired(lab))
    assert lab.set.settings.policy == replace(CHOSEN, keep=None)


def test_settings_that_are_lost_with_their_copy_keep_all_points_and_say_so(lab, chosen):
    (lab.set_folder / "set.copy.json").write_text("{")
    lose_settings(lab, json.dumps(chosen.to_json() | {"sector_size": "none"}))
    assert any("is not known any more" in sentence for sentence in repaired(lab))
    assert lab.set.settings.policy.keep is None
    assert lab.set.settings.source == chosen.source


def test_a_copy_of_another_sets_settings_is_not_used_and_is_kept(lab, chosen):
    """It can be read, but its disks are others: somebody has put it there."""
    copy = lab.set_folder / "set.copy.json"
    other = next(each for each in BACKUP_FORMATS if each != lab.disk_format)
    copy.write_text(json.dumps(chosen.to_json() | {"format": other}))
    was = copy.read_bytes()
    lose_settings(lab, "{")
    assert any("is not known any more" in sentence for sentence in repaired(lab))
    assert lab.set.settings.policy.keep is None
    assert (lab.set_folder / QUARANTINE / copy.name).read_bytes() == was


def test_a_change_of_policy_that_is_cut_off_leaves_no_copy_with_the_old_one(
    lab, chosen, monkeypatch
):
    def cut_off(path: Path, _data: object) -> None:
        raise SystemExit

    monkeypatch.setattr(repository, "write_json", cut_off)
    with pytest.raises(SystemExit):
        lab.repository.set_policy("disk", Policy(keep=70))
    assert not (lab.set_folder / "set.copy.json").exists()
    assert lab.set.settings == chosen


@pytest.mark.parametrize("beside", ["", "0002-incremental"])
def test_a_first_backup_that_was_cut_off_right_before_its_end_is_finished_without_settings(
    tmp_path, disk_format, beside
):
    """Its files lie in flight, whole, and are all there is; or beside a layer that is no disk."""
    lab = Lab(tmp_path, SIZE, disk_format=disk_format)
    lab.poke(0, noise(BLOCK, 1))
    point = lab.backup()
    for path in point_files(lab.set_folder, point):
        if path.exists():
            path.rename(f"{path}.partial")
    if beside:
        (lab.set_folder / lab.file(beside)).write_bytes(b"no disk")
    for name in ("set.json", "set.copy.json"):
        (lab.set_folder / name).write_text("{")
    said = repaired(lab)
    assert "disk: an interrupted backup was finished: point 1." in said
    assert [each.id for each in lab.set.points] == [point.id]
    lab.check_ours(point)
    assert lab.backup().sequence == 3 if beside else 2


def test_settings_of_a_set_without_points_come_back_from_their_copy(tmp_path, disk_format):
    lab = Lab(tmp_path, SIZE, disk_format=disk_format)
    lab.delete(lab.backup(policy=CHOSEN))
    wanted = lab.set.settings
    lose_settings(lab, "{")
    assert any("set.json was written anew from its copy" in sentence for sentence in repaired(lab))
    assert lab.set.settings == wanted


def test_settings_of_a_set_of_which_nothing_is_left_are_said_to_be_lost(tmp_path, disk_format):
    lab = Lab(tmp_path, SIZE, disk_format=disk_format)
    lab.delete(lab.backup())
    (lab.set_folder / "set.copy.json").unlink()
    lose_settings(lab, "{")
    before = lab.files
    assert any("neither its copy nor a disk says" in sentence for sentence in repaired(lab))
    assert lab.files == before


def test_a_set_whose_source_is_forgotten_takes_the_next_backup_that_names_it(lab):
    (lab.set_folder / "set.json").unlink()
    (lab.set_folder / "set.copy.json").unlink()
    repaired(lab)
    assert lab.backup().parent == lab.set.points[4].id
    assert lab.set.settings.source.path == str(lab.image)
    lab.check_all()


def test_a_layer_that_was_cut_off_is_put_aside_and_what_hangs_on_it_refused(lab):
    layer = lab.layer(lab.set.points[1])
    layer.chmod(0o600)
    with layer.open("r+b") as file:
        file.truncate(layer.stat().st_size // 2)
    sentences = repaired(lab)
    assert any(
        lab.file("0002-incremental") + " is not readable" in sentence for sentence in sentences
    )
    verdicts = verify.run(verify.plan(lab.repository, "disk"), Task())
    assert [(verdict.point.sequence, verdict.ok) for verdict in verdicts] == [
        (1, True), (3, False), (4, True), (5, True),
    ]  # fmt: skip


@pytest.mark.parametrize("cut", range(5))
def test_a_repair_that_was_cut_off_while_it_put_a_layer_aside_is_done_again(lab, monkeypatch, cut):
    layer = lab.layer(lab.set.points[3])
    layer.chmod(0o600)
    layer.write_bytes(b"no disk")
    (lab.set_folder / "0004-boot.png").write_bytes(b"a picture")
    wanted = [point.sequence for point in lab.set.points if point.sequence != 4]
    moved: list[Path] = []
    rename = Path.rename

    def cut_off(path: Path, target: Path) -> Path:
        if target.parent.name == QUARANTINE:
            if len(moved) == cut:
                raise OSError(errno.EIO, "the drive was pulled out")
            moved.append(path)
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut_off)
        repair.run(lab.repository.path, Task())
    repaired(lab)
    assert [point.sequence for point in lab.set.points] == wanted
    assert not [path for path in lab.set_folder.iterdir() if path.name.startswith("0004")]


def test_a_layer_that_a_repair_left_open_is_read_only_again(lab):
    point = lab.set.points[1]
    lab.layer(point).chmod(0o600)
    os.utime(lab.layer(point))
    assert f"disk: {point.disk} is read-only again." in repaired(lab)
    lab.check_without_processes()
    (lab.set_folder / point.disk).with_suffix(".json").unlink()
    repaired(lab)
    assert lab.set.points[1].created == point.created
    assert repaired(lab) == []


def test_a_lost_layer_is_no_reason_to_touch_the_others(lab):
    shutil.move(lab.layer(lab.set.points[1]), lab.folder / "gone")
    before = lab.files
    repaired(lab)
    assert lab.files == before
    shutil.move(lab.folder / "gone", lab.set_folder / lab.file("0002-incremental"))
    assert_as_before(lab)


def test_a_damaged_manifest_stays_while_its_layer_cannot_be_read(lab, monkeypatch):
    """Another time the storage may give it: then the manifest is rebuilt."""
    (alone, manifest) = (Chain.alone, lab.set_folder / "0004-differential.json")
    manifest.write_text("{")

    def refuse(path: Path, disk_format: DiskFormat) -> Chain:
        if path.name == lab.file("0004-differential"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return alone(path, disk_format)

    with monkeypatch.context() as patch:
        patch.setattr(Chain, "alone", refuse)
        assert any("stays as it is" in sentence for sentence in repaired(lab))
    assert manifest.read_text() == "{"
    assert repaired(lab)
    assert [point.sequence for point in lab.set.points] == [1, 2, 3, 4, 5]


def test_repair_after_a_merge_finds_the_merged_disk(lab):
    lab.merge(lab.set.points[2])
    lose_all_but_layers(lab)
    repaired(lab)
    assert [point.sequence for point in lab.set.points] == [1, 3, 4, 5]
    lab.check_all()


def test_what_is_no_repository_stays_as_it_is(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0001-full.jpg").write_bytes(b"precious")
    with pytest.raises(RepositoryError) as refusal:
        repair.run(tmp_path, Task())
    assert refusal.value.advice
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_newer_layout_is_not_repaired(lab):
    (lab.repository.path / "vdbackup.json").write_text('{"layout": 99, "id": "x"}')
    (lab.set_folder / "0001-full.json").unlink()
    before = lab.files
    with pytest.raises(RepositoryError, match="layout 99"):
        repaired(lab)
    assert lab.files == before


def test_a_manifest_with_an_id_that_no_layer_can_have_is_rebuilt(lab):
    point = lab.set.points[1]
    manifest = lab.set_folder / "0002-incremental.json"
    manifest.write_text(json.dumps(point.to_json() | {"id": "../x"}))
    repair.run(lab.repository.path, Task())
    assert lab.set.points[1].id == point.id
    lab.check_ours(lab.set.points[2])
