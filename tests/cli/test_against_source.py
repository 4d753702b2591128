"""`vdbackup verify --against-source`: what is said, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent.mounts import MIB, image
from tests.agent.trackers import own_trackers
from tests.cli.conftest import Vdbackup
from tests.noise import noise
from tests.sources.loops import loop, mounted
from vdbackup.agent.changes import BLOCK


def test_of_an_image_it_is_said_how_much_differs(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, disk: Path
):
    said = vdbackup("verify", "-r", repository, "--against-source", "1")
    assert said.status == 0
    assert "differ from point 1." in said.out
    assert "cannot be said, because it is not in use" in said.out
    found = vdbackup("verify", "-r", repository, "--against-source", "--json").json
    assert found["sequence"] == 3
    assert (found["ok"], found["differing_bytes"]) == (True, 0)
    assert (found["marked_bytes"], found["missed_bytes"]) == (None, None)
    assert found["scan_reason"].startswith("it is not in use")
    assert found["consistency"]["how"] == "unmounted"


def test_a_source_is_compared_with_one_point_of_its_own_size(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, disk: Path
):
    several = vdbackup("verify", "-r", repository, "--against-source", "1", "2")
    assert several.status == 2
    with disk.open("ab") as file:
        file.truncate(disk.stat().st_size + MIB)
    larger = vdbackup("verify", "-r", repository, "--against-source", "--json")
    assert larger.status == 1
    assert json.loads(larger.err)["code"] == "not-comparable"


@pytest.fixture
def in_use(as_root: None, tmp_path: Path) -> Iterator[Path]:
    """A tracked device, of which an ext4 is mounted."""
    with ExitStack() as stack:
        stack.enter_context(own_trackers(tmp_path / "bpf", longest=256 * MIB))
        device = stack.enter_context(loop(image(tmp_path / "disk.img", 48, "ext4")))
        stack.enter_context(mounted(device, tmp_path / "mount", "-o", "nodiscard"))
        yield device


def test_of_a_tracked_disk_it_is_said_what_was_missed(
    vdbackup: Vdbackup, in_use: Path, tmp_path: Path
):
    repository = tmp_path / "backups"
    assert vdbackup("track", in_use).status == 0
    backup = ("backup", in_use, "-r", repository, "--retarget", "off", "--all-blocks")
    assert vdbackup(*backup).status == 0
    (tmp_path / "mount/file").write_bytes(noise(2 * MIB, 1))
    right = vdbackup("verify", "-r", repository, "--against-source")
    assert right.status == 0
    assert "frozen together" in right.out
    assert "and are marked as changed since." in right.out
    assert right.out.endswith("Nothing else differs.\n")
    with (tmp_path / "disk.img").open("r+b") as file:
        file.seek(48 * MIB - 3 * BLOCK)
        file.write(noise(4096, 2))
    missed = vdbackup("verify", "-r", repository, "--against-source", "--json")
    assert missed.status == 1
    assert json.loads(missed.err)["code"] == "changes-missed"
    result = json.loads(missed.out.splitlines()[-1])
    assert (result["ok"], result["missed_bytes"]) == (False, BLOCK)
    assert result["marked_bytes"] >= 2 * MIB
    (tracked,) = vdbackup("status", "--json").json["tracked"]
    assert tracked["scan_reason"].startswith("a full read found 1 block of 64 KiB that had changed")
    made = vdbackup("backup", in_use, "-r", repository, "--json").json
    assert made["scan_reason"].startswith("tracking was begun anew: a full read found 1 block")
