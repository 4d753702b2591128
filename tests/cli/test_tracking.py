"""`vdbackup track`, `untrack` and `status`: as root on the command line, without any service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.agent.followed import begin, write
from tests.agent.trackers import own_trackers
from tests.cli.conftest import Vdbackup
from tests.sources.loops import loop
from tests.sources.ordinary_user import as_an_ordinary_user
from vdbackup.agent import pins
from vdbackup.agent.changes import BLOCK

MIB = 1 << 20


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no repository is known, so that the status is that of tracked disks alone."""
    for name in ("CONFIG", "DATA"):
        monkeypatch.setenv(f"VDBACKUP_{name}_DIR", str(tmp_path / "own" / name.lower()))


@pytest.fixture
def device(as_root: None, tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(8 * MIB))
    with own_trackers(tmp_path / "bpf", longest=256 * MIB), loop(image) as device:
        yield device


def test_a_disk_is_tracked_until_that_is_ended(vdbackup: Vdbackup, device: Path):
    assert vdbackup("status", "--json").json["tracked"] == []
    assert "No disk's changes are tracked.\n" in vdbackup("status").out
    begun = vdbackup("track", device, "--json")
    assert (begun.status, begun.json["device"]) == (0, str(device))
    assert datetime.fromisoformat(begun.json["since"]).tzinfo is not None
    again = vdbackup("track", device)
    assert again.out.startswith(f"Changes of {device} are tracked since 20")
    (listed,) = vdbackup("status", "--json").json["tracked"]
    assert listed["since"] == begun.json["since"]
    assert vdbackup("untrack", device).status == 0
    assert vdbackup("status", "--json").json["tracked"] == []
    refused = vdbackup("untrack", device, "--json")
    assert refused.status == 1
    assert json.loads(refused.err)["code"] == "not-tracked"


def test_the_status_says_what_has_changed_for_each_set(vdbackup: Vdbackup, device: Path):
    begin(device, "laptop")
    write(device, (0, 2 * BLOCK))
    begin(device, "other/set.1")
    write(device, (4 * BLOCK, 1))
    (listed,) = vdbackup("status", "--json").json["tracked"]
    assert listed["device"] == str(device)
    assert listed["changed_bytes"] == 3 * BLOCK
    assert listed["scan_reason"] is None
    assert listed["sets"] == [
        {"name": "laptop", "changed_bytes": 3 * BLOCK},
        {"name": "other/set.1", "changed_bytes": BLOCK},
    ]
    said = vdbackup("status")
    assert said.status == 0
    head, *rows = said.out.splitlines()
    assert head.split()[0] == "device"
    assert ["192" in rows[0], "64" in rows[1], "other/set.1" in rows[1]] == [True] * 3


def test_the_status_says_why_everything_will_be_read(vdbackup: Vdbackup, device: Path):
    begin(device)
    (next(pins.home().iterdir()) / "link0").unlink()
    said = vdbackup("status", "--json")
    assert said.status == 3
    assert said.json["tracked"][0]["scan_reason"] == "a part of what tracks it was removed"
    assert f"all of {device} is read, because a part of what tracks it was removed." in said.err


def test_an_ordinary_user_is_told_that_only_root_may(vdbackup: Vdbackup, device: Path):
    begin(device)
    with as_an_ordinary_user():
        said = [vdbackup(*each, "--json") for each in (("track", device), ("status",))]
    assert [each.status for each in said] == [1, 1]
    assert {json.loads(each.err.splitlines()[-1])["code"] for each in said} == {"needs-root"}


def test_what_is_no_device_is_refused(vdbackup: Vdbackup, tmp_path: Path):
    said = vdbackup("track", tmp_path, "--json")
    assert (said.status, json.loads(said.err)["code"]) == (1, "not-a-disk")
