"""A source's backups go into its own set, surely, and never over another disk's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.backup.lab import SIZE, Lab
from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup.backup import capture, repair
from vdbackup.errors import BackupError, OtherSource
from vdbackup.jobs import Task
from vdbackup.repository import near_paths
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import PointType
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository
from vdbackup.sources.disk_source import DiskSource
from vdbackup.sources.identity import Attached, Facts, Kind

MIB = 1 << 20
CLONED = Facts(table="11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa", contents=("2222-3333",))


def run(*command: str | Path) -> str:
    return subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.poke(-5 * BLOCK, noise(5 * BLOCK, 2))
    return lab


def with_table(lab: Lab, label: str) -> None:
    subprocess.run(
        ["sfdisk", "--quiet", lab.image],
        input=f"label: dos\nlabel-id: {label}\n64,1024\n",
        check=True,
        text=True,
    )


def back_up(
    lab: Lab, path: Path, set_name: str | None = None, *, same_source: bool = False, kind="auto"
) -> capture.CaptureResult:
    with open_path(path) as source:
        plan = capture.plan(
            lab.repository, source, set_name=set_name, same_source=same_source, kind=kind
        )
        return capture.run(plan, Task())


def forget(lab: Lab, facts: dict[str, tuple[str, ...]], path: str = "") -> None:
    """Let the set know only that of its source."""
    settings = lab.set.settings
    source = replace(settings.source, id="", path=path, facts=facts)
    lab.repository.save_settings("disk", replace(settings, source=source))


def points(lab: Lab, name: str = "disk") -> int:
    return len(lab.repository.set(name).points)


def test_all_that_is_known_of_a_source_is_kept_in_its_set(lab):
    with_table(lab, "0xDEADBEEF")
    lab.backup()
    facts = lab.set.settings.source.facts
    assert facts["paths"] == (str(lab.image),)
    assert facts["size"] == (str(SIZE),)
    assert facts["table"] == ("deadbeef",)
    assert lab.set.points[0].captured_from == lab.set.settings.source


def test_an_image_that_was_moved_and_renamed_goes_on(lab):
    lab.backup()
    (lab.folder / "moved").mkdir()
    lab.image = lab.image.rename(lab.folder / "moved" / "vm-new.img")
    result = back_up(lab, lab.image)
    assert (result.set_name, result.point.type) == ("disk", PointType.INCREMENTAL)
    assert (result.notes, result.warnings) == ((), ())
    assert lab.set.settings.source.path == str(lab.image)


def link_to(lab: Lab, target: Path) -> Path:
    """The link by which a user calls the disk, turned."""
    link = lab.folder / "current.img"
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    return link


def test_a_source_that_was_given_by_a_link_is_kept_by_it(lab):
    result = back_up(lab, link_to(lab, lab.image))
    source = lab.repository.set(result.set_name).settings.source
    assert (result.set_name, source.path) == ("current", str(lab.folder / "current.img"))
    assert source.facts["paths"] == (str(lab.image),)
    assert source.facts["links"] == (str(lab.folder / "current.img"),)
    (lab.folder / "images").symlink_to(lab.folder)
    assert back_up(lab, lab.folder / "images/disk.img").set_name == "current"
    assert back_up(lab, lab.image).set_name == "current"
    assert points(lab, "current") == 3


def test_a_link_whose_target_was_renamed_goes_on_in_silence(lab):
    with_table(lab, "0xDEADBEEF")
    back_up(lab, link_to(lab, lab.image))
    result = back_up(lab, link_to(lab, lab.image.rename(lab.folder / "renamed.img")))
    assert (result.set_name, result.notes, result.warnings) == ("current", (), ())
    assert result.point.type == PointType.INCREMENTAL


@pytest.mark.parametrize("ids", [True, False], ids=["with-ids", "of-noise"])
def test_a_link_that_was_turned_to_what_is_much_alike_goes_on_only_if_the_user_says_so(lab, ids):
    """It may be today's copy, or a machine of the same template: that has nearly all in common."""
    if ids:
        with_table(lab, "0xDEADBEEF")
    link = link_to(lab, lab.image)
    back_up(lab, link)
    before, lab.image = lab.image, lab.folder / "copy.img"
    shutil.copy(before, lab.image)
    lab.poke(3 * BLOCK, noise(BLOCK, 2))
    link_to(lab, lab.image)
    with pytest.raises(OtherSource, match=f"belongs to {before}.*{lab.image}.*the same link"):
        back_up(lab, link, "current")
    assert back_up(lab, link, "current", same_source=True).set_name == "current"
    assert back_up(lab, link).set_name == "current"
    assert points(lab, "current") == 3


@pytest.mark.parametrize("ids", [True, False], ids=["with-ids", "of-noise"])
def test_a_link_that_was_turned_to_another_disk_gets_another_set_until_it_is_turned_back(lab, ids):
    if ids:
        with_table(lab, "0xDEADBEEF")
    first = lab.image
    link = link_to(lab, first)
    back_up(lab, link)
    lab.image = lab.folder / "other.img"
    lab.image.write_bytes(noise(SIZE, 9))
    if ids:
        with_table(lab, "0x0BADCAFE")
    link_to(lab, lab.image)
    with pytest.raises(OtherSource, match=f"belongs to {first}.*{lab.image}.*the same link"):
        back_up(lab, link, "current")
    result = back_up(lab, link)
    assert result.set_name == "current-2"
    assert "the same link" in (*result.notes, *result.warnings)[0]
    assert back_up(lab, link).set_name == "current-2"
    assert back_up(lab, link_to(lab, first)).set_name == "current"
    assert (points(lab, "current"), points(lab, "current-2")) == (2, 2)


def test_a_link_that_was_turned_to_a_clone_with_contents_of_its_own_gets_another_set(lab):
    with_table(lab, "0xDEADBEEF")
    link = link_to(lab, lab.image)
    back_up(lab, link)
    lab.image = lab.folder / "clone.img"
    lab.image.write_bytes(noise(SIZE, 9))
    with_table(lab, "0xDEADBEEF")
    result = back_up(lab, link_to(lab, lab.image))
    assert result.set_name == "current-2"
    assert "is not sure: the same link" in result.warnings[0]
    assert points(lab, "current") == 1


def test_an_image_that_took_the_place_of_a_deleted_one_is_another(lab):
    """The file system gives the new file the number that the old one had."""
    lab.backup()
    lab.image.unlink()
    other = lab.folder / "other.img"
    other.write_bytes(noise(SIZE, 9))
    assert back_up(lab, other).set_name == "other"
    assert points(lab) == 1


def test_a_copy_of_an_image_gets_a_set_of_its_own_and_a_warning(lab):
    with_table(lab, "0xDEADBEEF")
    lab.capture(policy=Policy(keep=1))
    copy = Path(shutil.copy(lab.image, lab.folder / "copy.img"))
    result = back_up(lab, copy)
    assert result.set_name == "copy"
    assert "is not sure" in result.warnings[0]
    assert "the set disk" in result.warnings[0]
    assert points(lab) == 1
    assert back_up(lab, copy).warnings == ()


def test_a_copy_in_another_place_goes_on_in_the_set_if_the_user_says_so(lab):
    with_table(lab, "0xDEADBEEF")
    lab.capture(policy=Policy(keep=1))
    copy = Path(shutil.copy(lab.image, lab.folder / "copy.img"))
    with pytest.raises(OtherSource, match=f"belongs to {lab.image}.* may be another") as refusal:
        back_up(lab, copy, "disk")
    assert str(copy) in refusal.value.title
    result = back_up(lab, copy, "disk", same_source=True)
    assert result.point.type == PointType.INCREMENTAL
    assert points(lab) == 2  # and nothing was merged, though the set keeps one
    assert back_up(lab, copy).set_name == "disk"
    assert points(lab) == 1


def test_an_image_that_was_moved_to_another_file_system_goes_on_if_the_user_says_so(lab):
    """It looks as a clone does whose template was deleted: that is not sure, and it is said."""
    with_table(lab, "0xDEADBEEF")
    lab.capture(policy=Policy(keep=1))
    (lab.folder / "moved").mkdir()
    moved = Path(shutil.copy(lab.image, lab.folder / "moved" / "disk.img"))
    lab.image.unlink()
    warning = back_up(lab, moved).warnings[0]
    assert warning.endswith(f"{lab.image} is not there.")
    result = back_up(lab, moved, "disk", same_source=True)
    assert result.point.type == PointType.INCREMENTAL
    assert points(lab) == 2
    assert lab.set.settings.source.path == str(moved)


def test_a_copy_is_said_to_have_its_original_still_there(lab):
    with_table(lab, "0xDEADBEEF")
    lab.backup()
    copy = Path(shutil.copy(lab.image, lab.folder / "copy.img"))
    assert back_up(lab, copy).warnings[0].endswith(f"{lab.image} is still there.")


def test_a_share_that_may_be_dead_is_not_asked_for_the_original(lab, monkeypatch):
    with_table(lab, "0xDEADBEEF")
    share = lab.folder / "share"
    share.mkdir()
    back_up(lab, Path(shutil.copy(lab.image, share / "disk.img")))
    mounts = lab.folder / "mountinfo"
    far = f"90 1 0:90 / {share} rw - nfs4 nas:/x rw"
    mounts.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n{far}\n")
    monkeypatch.setattr(near_paths, "_MOUNTS", mounts)
    asked = []
    lexists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: asked.append(str(path)) or lexists(path))
    with open_path(lab.image) as source:
        warning = capture.plan(lab.repository, source).about_source
    assert "is not sure" in warning
    assert not warning.endswith("there.")
    assert [each for each in asked if each.startswith(str(share))] == []


def test_of_two_sets_that_a_disk_may_belong_to_the_one_with_its_name_is_offered(lab):
    with_table(lab, "0xDEADBEEF")
    back_up(lab, Path(shutil.copy(lab.image, lab.folder / "another.img")))
    lab.backup()
    (lab.folder / "moved").mkdir()
    moved = Path(shutil.copy(lab.image, lab.folder / "moved" / "disk.img"))
    with open_path(moved) as source:
        assert capture.plan(lab.repository, source).similar == "disk"


def test_another_disk_is_refused_by_the_set_that_was_named_and_both_are_named(lab):
    with_table(lab, "0xDEADBEEF")
    lab.backup()
    before = lab.files
    other = lab.folder / "other.img"
    other.write_bytes(noise(BLOCK, 1))
    with pytest.raises(OtherSource, match=f"belongs to {lab.image}, .* {other}, .*another source"):
        back_up(lab, other, "disk")
    assert lab.files == before


def test_another_disk_that_is_meant_begins_with_a_full_and_costs_the_first_one_nothing(lab):
    with_table(lab, "0xDEADBEEF")
    lab.capture(policy=Policy(keep=1))
    other = lab.folder / "other.img"
    other.write_bytes(noise(SIZE, 9))
    result = back_up(lab, other, "disk", same_source=True)
    assert result.point.type == PointType.FULL
    assert "As you say" in result.notes[0]
    assert points(lab) == 2
    lab.check_ours(lab.set.points[0])


def test_another_disk_under_the_same_path_gets_a_set_of_its_own_and_a_note(lab):
    with_table(lab, "0xDEADBEEF")
    lab.capture(policy=Policy(keep=1))
    with_table(lab, "0xCAFECAFE")
    result = back_up(lab, lab.image)
    assert result.set_name == "disk-2"
    assert "is not what the set disk holds the backups of" in result.notes[0]
    assert result.warnings == ()
    assert points(lab) == 1


def test_a_new_image_of_the_same_source_under_its_path_goes_on(lab):
    with_table(lab, "0xDEADBEEF")
    lab.backup()
    copy = Path(shutil.copy(lab.image, lab.folder / "new"))
    copy.replace(lab.image)
    result = back_up(lab, lab.image)
    assert (result.set_name, result.warnings) == ("disk", ())


# ------------------------------------------------------------------- sets of older versions


def test_a_set_of_an_older_version_goes_on_and_learns_all_that_is_known(lab):
    lab.backup()
    file = lab.set_folder / "set.json"
    record = json.loads(file.read_text())
    record["source"] = {"id": f"file:{lab.image}", "name": "disk", "path": str(lab.image)}
    file.write_text(json.dumps(record))
    result = back_up(lab, lab.image)
    assert (result.set_name, result.point.type) == ("disk", PointType.INCREMENTAL)
    assert lab.set.settings.source.facts["size"] == (str(SIZE),)


def test_an_older_version_still_reads_whose_set_it_is(lab):
    lab.backup()
    source = json.loads((lab.set_folder / "set.json").read_text())["source"]
    assert source["id"] == f"file:{lab.image}"
    assert (source["name"], source["path"]) == ("disk", str(lab.image))


# ------------------------------------------------------------------- what the contents prove


@pytest.mark.parametrize("named", [None, "disk"])
def test_where_little_is_known_a_disk_that_holds_what_was_captured_goes_on(lab, named):
    """As an old set's of a device of which only its changing path was kept."""
    lab.backup()
    forget(lab, {"paths": (str(lab.image),)}, str(lab.image))
    assert back_up(lab, lab.image, named).set_name == "disk"


def in_dock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each source be an encrypted disk in one and the same dock."""

    def facts_of(source: object) -> Facts:
        return Facts(
            paths=("/dev/sdb",), size=str(SIZE), kind=Kind.DISK, attached=Attached.BRIDGE,
            model="USB3.0 DOCK", serial="058F63666485",
        )  # fmt: skip

    monkeypatch.setattr(DiskSource, "facts", facts_of)


def test_a_disk_of_noise_in_a_dock_is_known_by_what_was_captured_of_it(lab, monkeypatch):
    in_dock(monkeypatch)
    lab.backup()
    lab.poke(0, noise(3 * BLOCK, 7))
    assert back_up(lab, lab.image).point.type == PointType.INCREMENTAL


def test_another_disk_of_noise_in_the_same_dock_is_not_taken_for_the_first(lab, monkeypatch):
    in_dock(monkeypatch)
    lab.capture(policy=Policy(keep=1))
    other = lab.folder / "other.img"
    other.write_bytes(noise(SIZE, 9))
    result = back_up(lab, other)
    assert result.set_name == "other"
    assert "is not sure" in result.warnings[0]
    with pytest.raises(OtherSource, match="may be another source: the same path"):
        back_up(lab, other, "disk")
    assert points(lab) == 1


def test_a_clone_that_is_attached_too_is_not_taken_for_the_source(lab, monkeypatch):
    found = replace(CLONED, paths=("/dev/vdb",), size=str(SIZE), kind=Kind.DISK)
    monkeypatch.setattr(DiskSource, "facts", lambda _: found)
    lab.capture(policy=Policy(keep=1))
    monkeypatch.setattr(DiskSource, "facts", lambda _: replace(found, twins=("/dev/vdc",)))
    result = back_up(lab, lab.image)
    assert result.set_name == "disk-2"
    assert "another device attached has its ids, too" in result.warnings[0]
    assert points(lab) == 1


# ------------------------------------------------------------------- after a repair


def repaired(lab: Lab) -> str:
    return "\n".join(repair.run(lab.repository.path, Task()).done)


def test_a_set_whose_settings_are_lost_goes_on_by_itself_after_a_repair(lab):
    lab.backup()
    (lab.set_folder / "set.json").unlink()
    assert f"its source is {lab.image}" in repaired(lab)
    result = back_up(lab, lab.image)
    assert (result.set_name, result.point.type) == ("disk", PointType.INCREMENTAL)


def test_what_is_whole_in_damaged_settings_is_believed_by_a_repair(lab):
    lab.backup()
    before = lab.set.settings
    file = lab.set_folder / "set.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"virtual_size": "large"}))
    repaired(lab)
    assert lab.set.settings.source == before.source


def test_a_set_that_is_known_by_its_layers_alone_goes_on_where_it_is_named(lab):
    with_table(lab, "0xDEADBEEF")
    lab.backup()
    for path in lab.set_folder.glob("*.json"):
        path.unlink()
    assert "has to name the set" in repaired(lab)
    assert lab.set.settings.source.facts["table"] == ("deadbeef",)
    by_itself = back_up(lab, lab.image)
    assert (by_itself.set_name, len(by_itself.warnings)) == ("disk-2", 1)
    assert back_up(lab, lab.image, "disk").point.type == PointType.INCREMENTAL


def test_another_disk_does_not_become_the_source_of_a_set_whose_own_is_forgotten(lab):
    lab.backup()
    forget(lab, {})
    other = lab.folder / "other.img"
    other.write_bytes(noise(SIZE, 9))
    with pytest.raises(OtherSource, match="an unknown source"):
        back_up(lab, other, "disk")
    assert back_up(lab, lab.image, "disk").set_name == "disk"


def test_a_set_that_cannot_be_read_is_said_where_a_new_one_is_begun(lab):
    lab.backup()
    (lab.set_folder / "set.json").write_text("{")
    result = back_up(lab, lab.image)
    assert result.set_name == "disk-2"
    assert "whether disk holds its backups cannot be told" in result.warnings[0]


def test_a_set_that_was_renamed_as_no_set_can_be_called_is_named_before_it_is_begun_anew(lab):
    lab.backup()
    lab.set_folder.rename(lab.set_folder.with_name("disk (alt)"))
    result = back_up(lab, lab.image)
    assert result.set_name == "disk"
    assert "whether disk (alt) holds its backups cannot be told" in " ".join(result.notes)


def test_a_set_whose_source_changed_after_the_plan_is_not_written_to(lab):
    lab.backup()
    with open_path(lab.image) as source:
        plan = capture.plan(lab.repository, source)
        forget(lab, {"table": ("deadbeef",)})
        with pytest.raises(BackupError, match="has changed meanwhile"):
            capture.run(plan, Task())
    assert points(lab) == 1


# ------------------------------------------------------------------- real devices


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def attached(stack: ExitStack, image: Path) -> Path:
    device = run("losetup", "--find", "--show", image)
    stack.callback(run, "losetup", "--detach", device)
    return Path(device)


@pytest.mark.usefixtures("as_root")
def test_an_image_behind_whatever_loop_device_is_the_same_source(lab, stack):
    lab.repository = Repository.create(lab.folder / "r")
    image = lab.folder / "image.img"
    image.write_bytes(noise(MIB, 1))
    with ExitStack() as first:
        name = back_up(lab, attached(first, image)).set_name
        occupied = attached(stack, lab.image)
    again = attached(stack, image)
    assert occupied != again
    result = back_up(lab, again)
    assert (result.set_name, result.point.sequence) == (name, 2)


@pytest.mark.usefixtures("as_root")
def test_two_clones_in_two_devices_are_two_sources(lab, stack):
    with_table(lab, "0xDEADBEEF")
    clone = Path(shutil.copy(lab.image, lab.folder / "clone.img"))
    first = back_up(lab, attached(stack, lab.image))
    second = back_up(lab, attached(stack, clone))
    assert first.set_name != second.set_name
    assert "is not sure" in second.warnings[0]
