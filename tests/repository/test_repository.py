"""A repository: what is one, what it is called, what is found in it, and what damage it bears."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.backup.lab import Lab
from tests.backup.once import once
from tests.noise import noise
from vdbackup.backup import repair
from vdbackup.errors import Damaged, PointNotFound, Remedy, RepositoryError, VdbackupError
from vdbackup.jobs import Task
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.journal import Journal
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.marker import LAYOUT
from vdbackup.repository.model import BootStage, BootTest, Promotion, SetSettings, SourceIdentity
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository, check_set_name, set_name_for


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return three_points(Lab(tmp_path))


@once
def three_points(lab: Lab) -> None:
    """A full and two incrementals."""
    for number in range(3):
        lab.poke(number * BLOCK, noise(BLOCK, number))
        lab.backup()


def test_a_merge_that_ends_while_a_set_is_read_leaves_its_points_as_they_are_then(lab, monkeypatch):
    first, second, _ = lab.set.points
    Journal(first, second).save(lab.set_folder)
    seen = Repository.interrupted

    def ends(repository: Repository, name: str) -> bool:
        found = seen(repository, name)
        (lab.set_folder / "journal.json").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Repository, "interrupted", ends)
    assert [point.sequence for point in lab.set.points] == [1, 2, 3]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def settings() -> SetSettings:
    return SetSettings(SourceIdentity("file:/x", "x", "/x"), 1 << 20, 512, "vmdk")


def refused(call, kind: type[VdbackupError] = RepositoryError) -> VdbackupError:
    with pytest.raises(kind) as refusal:
        call()
    assert refusal.value.title
    assert refusal.value.advice
    return refusal.value


# --------------------------------------------------------------------------- the folder


def test_a_repository_that_was_only_begun_is_begun_again(tmp_path):
    (tmp_path / "vdbackup.json.partial").write_text('{"layout"')
    Repository.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["vdbackup.json"]


def test_a_new_repository_is_found_again(tmp_path):
    created = Repository.create(tmp_path / "a" / "b" / "repository")
    assert Repository.open(created.path).id == created.id
    assert Repository.open_or_create(created.path).id == created.id
    assert created.sets() == []


def test_only_its_owner_may_look_into_a_repository(lab):
    assert mode(lab.repository.path) == 0o700
    assert mode(lab.set.folder) == 0o700
    for path in lab.set.folder.iterdir():
        assert mode(path) in (0o600, 0o444)


def test_an_empty_folder_becomes_a_repository(tmp_path):
    (tmp_path / "empty").mkdir()
    Repository.create(tmp_path / "empty")
    assert Repository.open(tmp_path / "empty").sets() == []


def test_a_folder_with_other_things_in_it_becomes_no_repository(tmp_path):
    (tmp_path / "photos.jpg").write_bytes(b"precious")
    refused(lambda: Repository.open_or_create(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["photos.jpg"]


def test_a_freshly_made_file_system_becomes_a_repository(tmp_path):
    """mkfs leaves a folder there, and a repository often has a disk to itself."""
    (tmp_path / "lost+found").mkdir()
    Repository.open_or_create(tmp_path)
    assert Repository.open(tmp_path).sets() == []


def test_a_file_becomes_no_repository(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    assert "not a folder" in refused(lambda: Repository.create(tmp_path / "file")).title
    refused(lambda: Repository.open(tmp_path / "file"))


def test_what_is_no_repository_is_said_to_be_none(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        assert "not a repository" in refused(lambda path=path: Repository.open(path)).title


@pytest.mark.parametrize(
    ("layout", "advice"),
    [
        (LAYOUT + 1, "newer version"),
        (99, "newer version"),
        *((none, "rebuilt from the disks") for none in ("1", None, 1.5)),
    ],
)
def test_a_newer_layout_or_none_that_is_said_is_refused_and_left_alone(lab, layout, advice):
    marker = lab.repository.path / "vdbackup.json"
    marker.write_text(json.dumps({"layout": layout, "id": "x"}))
    before = lab.files
    error = refused(lambda: Repository.open(lab.repository.path))
    assert "layout" in error.title
    assert advice in error.advice
    assert lab.files == before


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"layout"', "\udcff", "[" * 100_000])
def test_a_damaged_marker_is_refused(tmp_path, text):
    Repository.create(tmp_path / "r")
    (tmp_path / "r" / "vdbackup.json").write_text(text, errors="surrogateescape")
    refused(lambda: Repository.open(tmp_path / "r"))


# --------------------------------------------------------------------------- sets


@pytest.mark.parametrize("name", ["laptop-sda", "a", "disk 1", "Grün_2", "x" * 100, "a.b@c+d"])
def test_names_that_people_give_are_names_of_sets(tmp_path, name):
    repository = Repository.create(tmp_path / "r")
    assert repository.create_set(name, settings()).name == name
    assert [each.name for each in repository.sets()] == [name]


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/b", "/etc", "-x", ".hidden", " a", "a ", "a\n", "a\0b", "x" * 101,
        "\u202egnp.exe", "ü" * 100 + "€" * 60, "漢" * 100, "a\tb", "\udcff", "~", "*",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_or_deceive_are_refused(tmp_path, name):
    repository = Repository.create(tmp_path / "r")
    refused(lambda: repository.create_set(name, settings()))
    refused(lambda: repository.set(name))
    assert {path.name for path in repository.path.iterdir()} == {"vdbackup.json"}


@given(st.text())
@example("@home")
@example("+foo")
@example("漢" * 90)
@example("..")
@example("-")
def test_any_source_has_a_name_that_a_set_can_bear(source_name):
    name = check_set_name(set_name_for(source_name))
    assert len(os.fsencode(name)) <= 255


@pytest.mark.parametrize("source", ["con", "AUX", "nul.old", "com1", "LPT9"])
def test_no_set_is_called_as_a_device_of_windows(source):
    """A share of Windows, or a stick that is brought to one, could not have its folder."""
    assert set_name_for(source) == f"disk-{source}"


@pytest.mark.parametrize("source", ["console", "com10", "null", "my-con"])
def test_names_that_only_begin_so_stay(source):
    assert set_name_for(source) == source


def test_a_set_that_exists_is_not_made_again(lab):
    before = lab.files
    refused(lambda: lab.repository.create_set("disk", settings()))
    assert lab.files == before


def test_a_folder_of_something_else_does_not_become_a_set(lab):
    (lab.repository.path / "photos").mkdir()
    (lab.repository.path / "photos" / "precious.jpg").write_bytes(b"x")
    (lab.repository.path / "notes").write_bytes(b"x")
    for name in ("photos", "notes"):
        refused(lambda name=name: lab.repository.create_set(name, settings()))


def test_a_set_whose_making_was_cut_off_is_made(tmp_path):
    repository = Repository.create(tmp_path / "r")
    (repository.path / "disk").mkdir()
    (repository.path / "disk" / "set.json.partial").write_bytes(b"{")
    assert repository.create_set("disk", settings()).points == ()


def test_folders_that_are_no_sets_are_passed_over(lab):
    (lab.repository.path / "lost+found").mkdir()
    (lab.repository.path / "notes.txt").write_bytes(b"x")
    assert [each.name for each in lab.repository.sets()] == ["disk"]


def test_a_copy_of_a_set_under_an_odd_name_does_not_hide_the_others(lab):
    os.rename(lab.set.folder, lab.repository.path / "disk (copy)")
    lab.repository.create_set("other", settings())
    assert "other" in [each.name for each in lab.repository.sets()]


@pytest.mark.parametrize("name", ["disk (copy)", "disk (1)", "disk~", "#disk"])
def test_a_set_that_was_renamed_as_no_set_can_be_called_is_named(lab, name):
    os.rename(lab.set.folder, lab.repository.path / name)
    assert lab.repository.names() == []
    sets, damaged = lab.repository.survey()
    assert (sets, [each.name for each in damaged]) == ([], [name])
    assert "Rename the folder" in damaged[0].problem.advice


def test_a_set_whose_name_a_mac_has_taken_apart_is_read(lab):
    """HFS+, and rsync --iconv, write what is one character as a letter and its accent."""
    os.rename(lab.set.folder, lab.repository.path / "Bu\u0308ro")
    assert [each.name for each in lab.repository.sets()] == ["Bu\u0308ro"]


@pytest.mark.parametrize("name", [".disk.x1y2z3", "disk (copy).partial"])
def test_a_set_that_a_program_is_just_copying_is_not_named(lab, name):
    os.rename(lab.set.folder, lab.repository.path / name)
    assert lab.repository.survey() == ([], [])


def test_the_only_set_needs_no_name(lab):
    assert lab.repository.set().name == "disk"
    lab.repository.create_set("other", settings())
    error = refused(lab.repository.set, PointNotFound)
    assert "disk, other" in error.title
    assert error.remedy is Remedy.NAME_SET


def test_a_set_that_is_not_there_is_not_found(lab):
    refused(lambda: lab.repository.set("nothing"), PointNotFound)
    refused(lambda: Repository.create(lab.folder / "empty").set(), PointNotFound)


def test_settings_are_kept(lab):
    lab.repository.set_policy("disk", Policy(7))
    again = Repository.open(lab.repository.path).set("disk").settings
    assert again.policy.keep == 7
    assert again.source.path == str(lab.image)
    assert (again.virtual_size, again.sector_size, again.format) == (lab.size, 512, "vmdk")


# --------------------------------------------------------------------------- points


def test_a_point_is_found_by_number_id_start_of_its_id_and_as_the_latest(lab):
    for point in lab.set.points:
        for reference in (str(point.sequence), point.id, point.id[:13]):
            assert lab.repository.find(reference)[1] == point
    assert lab.repository.find("latest")[1].sequence == 3


@given(reference=st.text(max_size=9) | st.from_regex(r"[0-9a-f-]{1,4}", fullmatch=True))
@example("²")
@example("0")
@example("-1")
@example("4")
@example("\u0661")
def test_anything_else_is_not_found(found, reference):
    repository, points = found
    numbers = [str(point.sequence) for point in points]
    known = {"latest", *(number.zfill(digits) for number in numbers for digits in range(8))}
    if reference in known or any(point.id.startswith(reference) for point in points):
        return
    refused(lambda: repository.find(reference), PointNotFound)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("found"))
    for _ in range(2):
        lab.backup()
    return lab.repository, lab.set.points


def test_the_start_of_several_ids_is_ambiguous(lab):
    for number, point in enumerate(lab.set.points):
        manifest = manifest_path(lab.set.folder, point)
        data = json.loads(manifest.read_text()) | {"id": f"abcdef0{number}", "parent": None}
        manifest.write_text(json.dumps(data))
    error = refused(lambda: lab.repository.find("abcdef"), PointNotFound)
    assert "more than one" in error.title
    assert lab.repository.find("abcdef01")[1].sequence == 2


def test_a_small_number_never_means_the_start_of_an_id(lab):
    manifest = manifest_path(lab.set.folder, lab.set.points[2])
    data = json.loads(manifest.read_text()) | {"id": "77777777-0000-4000-8000-000000000000"}
    manifest.write_text(json.dumps(data))
    refused(lambda: lab.repository.find("7"), PointNotFound)
    refused(lambda: lab.repository.find("77777"), PointNotFound)
    assert lab.repository.find("77777777")[1].sequence == 3


def test_a_point_that_was_merged_is_said_to_be_in_another(lab):
    old = lab.set.points[1]
    lab.merge(lab.set.points[2])
    error = refused(lambda: lab.repository.find(old.id), PointNotFound)
    assert "merged into point 3" in error.title


def test_points_are_ordered_by_number_and_not_by_clock(lab):
    for number, point in enumerate(lab.set.points):
        manifest = manifest_path(lab.set.folder, point)
        data = json.loads(manifest.read_text())
        data["created"] = f"20{30 - number}-01-01T00:00:00.000+00:00"
        manifest.write_text(json.dumps(data))
    assert [point.sequence for point in lab.set.points] == [1, 2, 3]


def test_points_whose_parents_form_a_circle_are_refused(lab):
    points = lab.set.points
    manifest = manifest_path(lab.set.folder, points[0])
    data = json.loads(manifest.read_text()) | {"parent": points[2].id}
    manifest.write_text(json.dumps(data))
    assert "circle" in refused(lambda: lab.set.chain(lab.set.points[1])).title


def test_a_point_whose_parents_manifest_is_gone_is_refused_and_the_others_read(lab):
    points = lab.set.points
    manifest_path(lab.set.folder, points[1]).unlink()
    refused(lambda: lab.set.open_chain(points[2]), kind=Damaged)
    lab.check_ours(points[0])


# --------------------------------------------------------------------------- damaged JSON


OUTSIDE = ["../other.vmdk", "/etc/passwd", "a/b.vmdk", "..", ".", "", "a\0b", "x" * 300]


@pytest.mark.parametrize("field", ["disk", "overlay", "digests"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(lab, field):
    manifest = manifest_path(lab.set.folder, lab.set.points[1])
    data = json.loads(manifest.read_text())
    of_another = {"disk": "0001-full.vmdk", "overlay": "0001-overlay.vmdk"}
    for name in (*OUTSIDE, of_another.get(field, "0001-full.digests")):
        manifest.write_text(json.dumps(data | {field: name}))
        error = refused(lambda: lab.repository.find("2"))
        assert "0002-incremental.json" in error.title
        assert [point.sequence for point in lab.set.points] == [1, 3]


NOT_WHAT_IT_IS = [None, True, -1, 1.5, "", "x", [], {}, [None], {"a": 1}, 10**30]


@pytest.mark.parametrize("wrong", NOT_WHAT_IT_IS, ids=repr)
def test_a_manifest_with_a_field_of_another_kind_is_refused_or_harmless(lab, wrong):
    manifest = manifest_path(lab.set.folder, lab.set.points[1])
    data = json.loads(manifest.read_text())
    for field in data:
        manifest.write_text(json.dumps(data | {field: wrong}))
        assert_only_sentences(lab)


@pytest.mark.parametrize("wrong", NOT_WHAT_IT_IS, ids=repr)
def test_a_boot_test_with_a_field_of_another_kind_is_refused_or_harmless(lab, wrong):
    point = lab.set.points[1]
    manifest = manifest_path(lab.set.folder, point)
    test = BootTest(point.created, ok=True, seconds=4.5, stage=BootStage.LOGIN, sentence="Up.")
    data = json.loads(manifest.read_text())
    for field in asdict(test):
        said = asdict(test) | {field: wrong}
        manifest.write_text(json.dumps(data | {"boot_tested": said}))
        assert_only_sentences(lab)
    manifest.write_text(json.dumps(data | {"boot_tested": asdict(test)}))
    assert lab.set.points[1].boot_tested == test


def test_a_boot_test_of_an_earlier_version_is_read(lab):
    point = lab.set.points[1]
    manifest = manifest_path(lab.set.folder, point)
    said = {"boot_tested": {"at": point.created, "ok": False}}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | said))
    assert lab.set.points[1].boot_tested == BootTest(point.created, ok=False)


@pytest.mark.parametrize("wrong", NOT_WHAT_IT_IS, ids=repr)
def test_settings_with_a_field_of_another_kind_are_refused_or_harmless(lab, wrong):
    path = lab.set.folder / "set.json"
    data = json.loads(path.read_text())
    for field in data:
        path.write_text(json.dumps(data | {field: wrong}))
        assert_only_sentences(lab)
    for field in ("id", "name", "path"):
        path.write_text(json.dumps(data | {"source": data["source"] | {field: wrong}}))
        assert_only_sentences(lab)
    for field in data["policy"]:
        path.write_text(json.dumps(data | {"policy": {field: wrong}}))
        assert_only_sentences(lab)


def test_a_moment_that_no_clock_shows_is_a_damaged_manifest_and_mended(lab):
    """A merge would write it to the layer's time, and every command after that go on with it."""
    point = lab.set.points[1]
    manifest = manifest_path(lab.set.folder, point)
    manifest.write_text(json.dumps(point.to_json() | {"created": "0001-01-01T00:00:00"}))
    assert [each.name for each in lab.set.broken] == [manifest.name]
    repair.run(lab.repository.path, Task())
    assert lab.set.points[1].created == point.created
    lab.merge(lab.set.points[1])


@pytest.mark.parametrize("wrong", ["raw", "vdi", "VMDK", ""])
def test_a_set_in_a_format_that_no_backup_is_kept_in_is_refused(lab, wrong):
    path = lab.set.folder / "set.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": wrong}))
    error = refused(lambda: lab.repository.set("disk"))
    assert "set.json is not valid" in error.title
    assert error.remedy is Remedy.REPAIR


DAMAGED = ["", "{", "[]", "null", "{}", '{"id": 1}', "[" * 100_000, "\udcff"]


@pytest.mark.parametrize("name", ["set.json", "journal.json"])
def test_a_damaged_file_of_a_set_is_refused_by_a_sentence_and_the_others_go_on(lab, name):
    lab.repository.create_set("other", settings())
    for text in DAMAGED:
        (lab.set_folder / name).write_text(text, errors="surrogateescape")
        error = refused(lambda: lab.repository.set("disk"))
        assert name in error.title
        sets, damaged = lab.repository.survey()
        assert [each.name for each in sets] == ["other"]
        assert [(each.name, each.problem.title) for each in damaged] == [("disk", error.title)]


def test_a_damaged_manifest_stops_its_own_point_and_what_reads_through_it(lab):
    for text in DAMAGED:
        (lab.set_folder / "0002-incremental.json").write_text(text, errors="surrogateescape")
        lab.check_ours(lab.repository.find("1")[1])
        assert "0002-incremental.json" in refused(lambda: lab.repository.find("2")).title
        _, third = lab.repository.find("3")
        error = refused(lambda third=third: lab.set.open_chain(third), Damaged)
        assert "0002-incremental.json" in error.title
        assert lab.set.next_sequence() == 4
        assert lab.set.unlisted_layers() == []


def test_latest_is_no_older_point_where_the_newest_is_damaged(lab):
    (lab.set_folder / "0003-incremental.json").write_text("{")
    assert "0003-incremental.json" in refused(lambda: lab.repository.find("latest")).title


def assert_only_sentences(lab: Lab) -> None:
    """Whatever an operation makes of damaged metadata, it says so in a sentence, or it works."""

    def everything() -> None:
        for point in lab.set.points:
            lab.set.children(point.id)
            lab.set.open_chain(point).close()
            lab.set.open_digests(point).close()
        lab.repository.find("2")
        lab.set.next_sequence()
        lab.backup(policy=None)

    try:
        everything()
    except VdbackupError as error:
        if not (error.title and error.advice):
            pytest.fail(f"no advice: {error}")
    for name in [n for n in os.listdir(lab.set_folder) if n.startswith("0004")]:
        (lab.set_folder / name).unlink()


def test_a_set_that_is_gone_as_a_whole_is_not_called_damaged(lab):
    """Its drive was pulled out: nothing is to be repaired."""
    backup_set = lab.set
    point = backup_set.points[-1]
    lab.set_folder.rename(lab.folder / "elsewhere")
    with pytest.raises(FileNotFoundError):
        backup_set.open_chain(point)
    with pytest.raises(FileNotFoundError):
        backup_set.open_digests(point)


def test_latest_is_the_newest_point_that_was_captured(lab):
    captured = lab.backup()
    lab.poke(0, b"of a session")
    promoted = replace(lab.backup(), promoted_from=Promotion("s", "s", captured.created))
    lab.repository.save_point("disk", promoted)
    assert lab.repository.find("latest")[1].id == captured.id
    assert lab.repository.find(str(promoted.sequence))[1].id == promoted.id
    for point in lab.set.points:
        lab.repository.save_point("disk", replace(point, promoted_from=promoted.promoted_from))
    with pytest.raises(PointNotFound, match="matches no"):
        lab.repository.find("latest")
