"""Damage in one set's files stops that set's work alone: whatever they say, or is in their place.

Every command ends with a status of its own and a sentence, never hangs, and never follows a link.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backup.lab import sha256
from tests.cli.conftest import Vdbackup
from tests.noise import noise
from vdbackup import cli
from vdbackup.repository.digests import BLOCK

SIZE = 8 * BLOCK
RECORDS = ("set.json", "0001-full.json", "0002-incremental.json", "0001-overlay.retarget.json")
FILES = (*RECORDS, "0001-full.digests", "0002-incremental.vmdk", "0001-overlay.vmdk")


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images and the repository of their sets, two points each."""
    folder = tmp_path_factory.mktemp("sets")
    for number, name in enumerate(("damaged", "other")):
        image = folder / f"{name}.img"
        image.write_bytes(noise(SIZE, number))
        for seed in (7, 8):
            with image.open("r+b") as file:
                file.seek(BLOCK)
                file.write(noise(BLOCK, seed + number))
            assert cli.main(["backup", str(image), "-r", str(folder / "backups")]) == 0
    return folder


@pytest.fixture
def work(two_sets: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(two_sets, tmp_path / "work"))


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.symlink_to(path.parents[2] / "precious")


def a_folder(path: Path) -> None:
    path.mkdir()


def without_end(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize("put", [a_pipe, a_link, a_folder, without_end])
@pytest.mark.parametrize("name", FILES)
def test_what_bears_the_name_of_a_file_of_ours_stops_its_own_set_alone(
    vdbackup: Vdbackup, work: Path, name: str, put: Callable[[Path], None]
):
    precious = work / "precious"
    precious.write_bytes(b"precious")
    file = work / "backups" / "damaged" / name
    file.unlink()
    put(file)
    check_the_other(vdbackup, work)
    check_ends_in_sentences(vdbackup, work)
    assert precious.read_bytes() == b"precious"
    repaired = vdbackup("repair", "-r", work / "backups")
    assert (repaired.status, repaired.err) == (0, "")
    assert vdbackup("list", "-r", work / "backups").status == 0
    check_the_other(vdbackup, work)
    assert precious.read_bytes() == b"precious"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()  # NaN and Infinity, too, which Python writes and reads
    | st.text(max_size=8)
    | st.sampled_from(["../other/0001-full.vmdk", "0001-full.vmdk", "9" * 30, "9999-12-31"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@given(data=st.data())
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_a_record_says_stops_its_own_set_alone(
    vdbackup: Vdbackup, two_sets: Path, tmp_path: Path, data: st.DataObject
):
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    work = Path(shutil.copytree(two_sets, tmp_path / "work"))
    file = work / "backups" / "damaged" / data.draw(st.sampled_from(RECORDS))
    said = json.loads(file.read_text())
    place, key = data.draw(st.sampled_from(list(places(said))))
    place[key] = data.draw(JSON)
    file.write_text(json.dumps(said))
    check_the_other(vdbackup, work)
    check_ends_in_sentences(vdbackup, work)
    assert vdbackup("repair", "-r", work / "backups").status == 0
    check_the_other(vdbackup, work)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value that can be set to another: what holds it, and its key."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [each for key in keys for each in ((value, key), *places(value[key]))]


@pytest.fixture
def refused(work: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the damaged set that we may not read."""
    real = os.open
    path = work / "backups" / "damaged" / request.param

    def may_not(opened: Any, *rest: Any, **named: Any) -> int:
        if Path(os.fsdecode(opened)) == path:
            raise PermissionError(13, "Permission denied", str(opened))
        return real(opened, *rest, **named)

    monkeypatch.setattr(os, "open", may_not)
    return path


@pytest.mark.parametrize("refused", ["set.json"], indirect=True)
def test_a_set_that_may_not_be_read_is_not_called_damaged(
    vdbackup: Vdbackup, work: Path, refused: Path
):
    listed = vdbackup("list", "-r", work / "backups")
    assert listed.status == 3
    assert "damaged: MAY NOT BE READ: You may not do that" in listed.out
    check_the_other(vdbackup, work)


@pytest.mark.parametrize("refused", ["0002-incremental.json", "0001-full.json"], indirect=True)
def test_a_manifest_that_may_not_be_read_is_not_called_damaged_and_never_replaced(
    vdbackup: Vdbackup, work: Path, refused: Path
):
    inode = refused.stat().st_ino
    listed = vdbackup("list", "-r", work / "backups")
    assert listed.status == 3
    assert "MAY NOT BE READ: You may not do that" in listed.out
    assert "DAMAGED" not in listed.out
    assert "repair" not in listed.out
    repaired = vdbackup("repair", "-r", work / "backups")
    assert repaired.status == 1
    assert "You may not do that" in repaired.err
    assert refused.stat().st_ino == inode
    check_the_other(vdbackup, work)


def test_a_damaged_manifest_is_in_the_verdict_on_its_set(vdbackup: Vdbackup, work: Path):
    (work / "backups" / "damaged" / "0002-incremental.json").write_text("{")
    verified = vdbackup("verify", "-r", work / "backups", "--set", "damaged")
    assert verified.status == 1
    assert "Point 1: ok" in verified.out
    assert "Point 2: DAMAGED" in verified.out


def test_a_boot_test_of_what_is_new_warns_of_sets_that_it_passes_over(
    vdbackup: Vdbackup, work: Path
):
    for name in ("damaged", "other"):
        (work / "backups" / name / "set.json").write_text("{")
    tested = vdbackup("boot-test", "--new", "-r", work / "backups")
    assert tested.status == 3
    assert "damaged is passed over" in tested.err
    assert not tested.out


def test_a_repair_that_leaves_a_set_as_it_is_mends_the_others_and_fails(
    vdbackup: Vdbackup, work: Path
):
    with (work / "backups" / "damaged" / "0002-incremental.digests").open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<I", 1000))  # the layout of a version to come
    (work / "backups" / "other" / "0002-incremental.json").write_text("{")
    repaired = vdbackup("repair", "-r", work / "backups")
    assert repaired.status == 1
    assert "0002-incremental.digests is of a newer version" in repaired.err
    assert "other: the manifest of point 2 was rebuilt." in repaired.out
    assert vdbackup("verify", "-r", work / "backups", "--set", "other").status == 0


def check_the_other(vdbackup: Vdbackup, work: Path) -> None:
    """The other set is listed, restored right, verified, and backed up into."""
    repository, restored = work / "backups", work / "restored.raw"
    listed = vdbackup("list", "-r", repository, "--json")
    assert listed.status in (0, 3)
    assert "other" in [each["name"] for each in listed.json["sets"]]
    chosen = ("-r", repository, "--set", "other")
    assert vdbackup("restore", "latest", restored, "--overwrite", *chosen).status == 0
    assert sha256(restored) == sha256(work / "other.img")
    assert vdbackup("verify", *chosen).status == 0


def check_ends_in_sentences(vdbackup: Vdbackup, work: Path) -> None:
    """All that can be asked of the damaged set does it, or says in a sentence why not."""
    chosen = ("-r", work / "backups", "--set", "damaged")
    for command in (
        ("restore", "latest", work / "of-damaged.raw", "--overwrite", *chosen),
        ("verify", *chosen),
        ("backup", work / "damaged.img", "-r", work / "backups"),
        ("merge", "2", *chosen),
        ("delete", "2", *chosen),
    ):
        ended = vdbackup(*command)
        assert ended.status in (0, 1, 2, 3)
        assert "unexpected" not in ended.err
        assert ended.err or ended.status == 0


@pytest.mark.parametrize("name", [".lock", ".lock.json", "vdbackup.json"])
@pytest.mark.parametrize("put", [a_pipe, a_folder, lambda path: path.symlink_to("nowhere")])
def test_what_is_in_the_way_of_the_repositorys_own_files_is_said_and_mended(
    vdbackup: Vdbackup, work: Path, name: str, put: Callable[[Path], None]
):
    path = work / "backups" / name
    path.unlink(missing_ok=True)
    put(path)
    inside = ["kept"] if path.is_dir() else []
    for text in inside:
        (path / "inside").write_text(text)
    backup = ("backup", work / "other.img", "-r", work / "backups")
    refused = vdbackup(*backup)
    if refused.status:  # a lease that is none is taken away
        assert "is damaged: it is a" in refused.err
        assert "`vdbackup repair` does that." in refused.err
    repaired = vdbackup("repair", "-r", work / "backups")
    assert repaired.status == 0, repaired.err
    if refused.status:
        assert f"{name} lies in quarantine now" in repaired.out
    assert vdbackup(*backup).status == 0
    assert [each.read_text() for each in work.rglob("inside")] == inside
    sets = vdbackup("list", "-r", work / "backups", "--json").json["sets"]
    assert {"damaged", "other"} <= {each["name"] for each in sets}
