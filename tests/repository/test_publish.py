"""How a point comes to exist: its files have names that sort, and the manifest comes last."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.crash.faults import power_cut
from tests.noise import noise
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.poke(0, noise(BLOCK, 1))
    return lab


def test_files_are_named_by_number_and_kind(lab):
    for kind in ("full", "incremental", "differential"):
        lab.backup(kind)
    assert sorted(path.name for path in lab.set_folder.iterdir()) == [
        "0001-full.digests",
        "0001-full.json",
        "0001-full.vmdk",
        "0001-overlay.vmdk",
        "0002-incremental.digests",
        "0002-incremental.json",
        "0002-incremental.vmdk",
        "0002-overlay.vmdk",
        "0003-differential.digests",
        "0003-differential.json",
        "0003-differential.vmdk",
        "0003-overlay.vmdk",
        "set.copy.json",
        "set.json",
    ]


def test_the_number_after_9999_has_five_digits_and_is_the_latest(lab):
    lab.backup()
    for path in list(lab.set_folder.glob("0001-*")):
        path.rename(path.with_name(path.name.replace("0001", "9999")))
    manifest = lab.set_folder / "9999-full.json"
    manifest.write_text(manifest.read_text().replace("0001", "9999").replace(": 1,", ": 9999,", 1))
    point = lab.backup("full")
    assert point.disk == "10000-full.vmdk"
    assert lab.repository.find("latest")[1] == point


def test_a_manifest_says_all_that_the_layout_promises(lab):
    point = lab.backup()
    data = json.loads((lab.set_folder / "0001-full.json").read_text())
    assert RecoveryPoint.from_json(data) == point
    assert data["id"] == point.id
    assert (data["sequence"], data["type"], data["parent"]) == (1, "full", None)
    assert data["created"].endswith("+00:00")
    assert data["disk_size"] == (lab.set_folder / data["disk"]).stat().st_size
    assert data["stored_bytes"] == BLOCK


def test_names_in_other_scripts_stay_readable_in_the_files(tmp_path):
    lab = Lab(tmp_path)
    lab.image = lab.image.rename(tmp_path / "Büro 漢字.img")
    lab.backup()
    assert "Büro 漢字.img" in (lab.set_folder / "set.json").read_text(encoding="utf-8")


def test_files_in_flight_are_nobodys_backup(lab):
    lab.backup()
    for path in list(lab.set_folder.glob("0001-*")):
        copy = path.name.replace("0001", "0007") + ".partial"
        (lab.set_folder / copy).write_bytes(path.read_bytes())
    assert [point.sequence for point in lab.set.points] == [1]
    assert lab.backup().sequence == 2
    lab.check_all()  # they are gone


def test_the_manifest_is_the_last_file_to_get_its_name(lab, monkeypatch):
    renamed = []
    original = os.rename

    def rename(source, target) -> None:
        renamed.append(Path(target).name)
        original(source, target)

    monkeypatch.setattr(os, "rename", rename)
    lab.backup()
    names = [name for name in renamed if name.startswith("0001")]
    assert names[-1] == "0001-full.json"
    assert set(names[:-1]) == {"0001-full.vmdk", "0001-full.digests", "0001-overlay.vmdk"}


def test_whole_files_are_durable_before_the_manifest_names_them(lab, monkeypatch):
    """Every file that is renamed into place was synced, and the folder before the manifest."""
    events: list[tuple[str, str]] = []
    originals = {"fsync": os.fsync, "rename": os.rename}

    def fsync(descriptor: int) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        originals["fsync"](descriptor)

    def rename(source, target) -> None:
        events.append(("rename", Path(target).name))
        originals["rename"](source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    lab.backup()
    manifest = events.index(("rename", "0001-full.json"))
    layers = ["0001-full.vmdk", "0001-full.digests", "0001-overlay.vmdk"]
    for name in (*layers, "0001-full.json"):
        assert events.index(("sync", f"{name}.partial")) < events.index(("rename", name))
    last = max(events.index(("rename", name)) for name in layers)
    assert ("sync", "disk") in events[last:manifest]
    assert ("sync", "disk") in events[manifest:]


def test_a_capture_that_was_cut_off_is_swept_away_by_the_next(lab):
    with power_cut(25):
        lab.backup()
    assert list(lab.set_folder.glob("0001-*.partial"))
    lab.backup()
    lab.check_all()
