"""Sessions from the terminal: kept, listed, reopened, promoted, discarded; and other programs'."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.cli.conftest import Vdbackup
from tests.oracles import libvhdi, qemu
from vdbackup.repository.repository import Repository

LIMIT = 240
WATCHED = ("--headless", "--timeout", LIMIT)


@pytest.fixture
def kept(vdbackup: Vdbackup, backed_up: list[Path], repository: Path) -> str:
    """The id of a session that was kept on the third of three points."""
    said = vdbackup(
        "boot", "latest", "-r", repository, *WATCHED, "--until", "state 3", "--keep", "--json"
    )
    assert said.status == 0, said.err
    (session,) = vdbackup("sessions", "list", "--json").json
    assert (session["state"], session["set"]) == ("kept", "laptop")
    assert f"vdbackup sessions reopen {session['id']}" in said.err
    return str(session["id"])


def test_without_keep_nothing_is_left(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path
) -> None:
    assert vdbackup("boot", 1, "-r", repository, *WATCHED, "--until", "state 1").status == 0
    assert vdbackup("sessions", "list").out == "No sessions.\n"
    assert not list(repository.rglob("hold-*"))


def test_a_kept_session_is_listed_reopened_and_discarded(
    vdbackup: Vdbackup, kept: str, repository: Path
) -> None:
    assert kept in vdbackup("sessions", "list").out
    assert vdbackup("sessions", "reopen", kept[-6:], *WATCHED, "--until", "state 3").status == 0
    assert [each["state"] for each in vdbackup("sessions", "list", "--json").json] == ["kept"]
    assert vdbackup("sessions", "discard", kept).status == 0
    assert vdbackup("sessions", "list", "--json").json == []
    assert not list(repository.rglob("hold-*"))


def test_a_point_with_a_kept_session_is_not_taken_away(
    vdbackup: Vdbackup, kept: str, repository: Path
) -> None:
    said = vdbackup("delete", 3, "-r", repository)
    assert said.status == 1
    assert f"the session {kept}" in said.err
    assert f"vdbackup sessions discard {kept}" in said.err
    assert vdbackup("merge", 2, "-r", repository).status == 0  # the third is not concerned


def test_a_promoted_session_is_a_point_and_gone(
    vdbackup: Vdbackup, kept: str, repository: Path, tmp_path: Path
) -> None:
    planned = vdbackup("sessions", "promote", kept, "--dry-run")
    assert (planned.status, "becomes a recovery point of laptop" in planned.out) == (0, True)
    assert vdbackup("sessions", "promote", kept, "--json").json["sequence"] == 4
    (backup_set,) = vdbackup("list", "-r", repository, "--json").json["sets"]
    assert [point["promoted_from"] is None for point in backup_set["points"]] == [True] * 3 + [
        False
    ]
    assert backup_set["points"][3]["promoted_from"]["session"] == kept
    assert backup_set["points"][3]["parent"] == backup_set["points"][2]["id"]
    assert backup_set["points"][3]["retargeted"] is not None, "it is made ready to boot, too"
    assert "incremental, of a session" in vdbackup("list", "-r", repository).out
    assert vdbackup("sessions", "list", "--json").json == []
    assert vdbackup("restore", 4, tmp_path / "out.raw", "-r", repository).status == 0
    assert vdbackup("verify", "-r", repository).status == 0


def test_a_session_that_does_not_exist_is_said_to_be_none(
    vdbackup: Vdbackup, repository: Path
) -> None:
    for action in ("reopen", "stop", "kill", "resume", "discard", "promote"):
        said = vdbackup("sessions", action, "20260101")
        assert said.status == 1
        assert "matches no session" in said.err


def test_another_computers_hold_is_let_go_on_demand(
    vdbackup: Vdbackup, kept: str, repository: Path
) -> None:
    (hold,) = repository.rglob("hold-*.json")
    other = {"host": "elsewhere", "machine": "b" * 32}
    hold.write_text(json.dumps(json.loads(hold.read_text()) | other))
    said = vdbackup("delete", 3, "-r", repository)
    assert "on elsewhere" in said.err
    assert vdbackup("sessions", "discard", kept, "-r", repository).status == 0
    assert vdbackup("delete", 3, "-r", repository).status == 0
    assert vdbackup("sessions", "discard", kept, "-r", repository).status == 1


# ------------------------------------------------------------------------------- open with


@pytest.fixture
def sets(vdbackup: Vdbackup, disk: Path, tmp_path: Path) -> dict[str, Path]:
    """Two points in a repository for each format."""
    made = {}
    for disk_format in ("vmdk", "vhd", "vhdx", "qcow2"):
        made[disk_format] = tmp_path / disk_format
        for _ in range(2):
            done = vdbackup("backup", disk, "-r", made[disk_format], "--format", disk_format)
            assert done.status in (0, 3)
            with disk.open("r+b") as image:
                image.seek(-512, 2)
                image.write(bytes([len(made)]) * 512)
    return made


def layers(repository: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in repository.rglob("0*")}


@pytest.mark.parametrize("disk_format", ["vmdk", "qcow2"])
def test_virt_manager_gets_a_machine_that_libvirts_schema_allows(
    vdbackup: Vdbackup, sets: dict[str, Path], disk_format: str, tmp_path: Path
) -> None:
    before = layers(sets[disk_format])
    said = vdbackup("open-with", "virt-manager", "latest", "-r", sets[disk_format], "--json")
    assert said.status == 0, said.err
    file = Path(said.json["file"])
    checked = subprocess.run(
        ["virt-xml-validate", str(file), "domain"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    domain = ET.parse(file).getroot()
    (source,) = domain.findall("./devices/disk/source")
    chain = [source.get("file")]
    chain += [each.get("file") for each in domain.findall(".//backingStore/source")]
    assert [Path(str(name)).name for name in chain] == [
        "session.qcow2", f"0002-overlay.{disk_format}", f"0002-incremental.{disk_format}",
        f"0001-full.{disk_format}",
    ]  # fmt: skip
    restored = tmp_path / "restored.raw"
    assert vdbackup("restore", "latest", restored, "-r", sets[disk_format]).status == 0
    qemu.assert_holds(Path(str(chain[0])), restored, "qcow2")
    qemu.io(Path(str(chain[0])), "write -P 9 0 64k", disk_format="qcow2")
    assert layers(sets[disk_format]) == before


@pytest.mark.parametrize(
    ("program", "file"), [("virtualbox", "machine.vbox"), ("vmware", "machine.vmx")]
)
def test_a_vmdk_child_names_the_overlay_and_leaves_it_alone(
    vdbackup: Vdbackup, sets: dict[str, Path], program: str, file: str, tmp_path: Path
) -> None:
    before = layers(sets["vmdk"])
    said = vdbackup("open-with", program, "latest", "-r", sets["vmdk"], "--json")
    assert Path(said.json["file"]).name == file
    child = Path(said.json["file"]).with_name("machine.vmdk")
    assert qemu.chain_names(child) == [
        "machine.vmdk", "0002-overlay.vmdk", "0002-incremental.vmdk", "0001-full.vmdk"
    ]  # fmt: skip
    restored = tmp_path / "restored.raw"
    assert vdbackup("restore", "latest", restored, "-r", sets["vmdk"]).status == 0
    qemu.assert_holds(child, restored)
    text = child.read_bytes()[:10240]
    for key in (b"ddb.uuid.image", b"ddb.uuid.parent", b"ddb.uuid.parentmodification"):
        assert key in text
    qemu.io(child, "write -P 9 0 64k")
    assert layers(sets["vmdk"]) == before


@pytest.mark.parametrize("disk_format", ["vmdk", "vhd"])
def test_virtualbox_finds_each_disk_below_its_parent(
    vdbackup: Vdbackup, sets: dict[str, Path], disk_format: str
) -> None:
    said = vdbackup("open-with", "virtualbox", "latest", "-r", sets[disk_format], "--json")
    file = Path(said.json["file"])
    space = {"v": "http://www.virtualbox.org/"}
    machine = ET.parse(file).getroot().find("v:Machine", space)
    assert machine is not None
    place, found = machine.find("v:MediaRegistry/v:HardDisks", space), []
    while place is not None and (place := place.find("v:HardDisk", space)) is not None:
        found.append((str(place.get("uuid")), Path(str(place.get("location")))))
    assert [path.name for _, path in found] == [
        f"0001-full.{disk_format}", f"0002-incremental.{disk_format}",
        f"0002-overlay.{disk_format}", f"machine.{disk_format}",
    ]  # fmt: skip
    for name, path in found:
        info = vdbackup("info", path, "--parents-in", found[0][1].parent, "--json").json
        known = uuid.UUID(info["disk_id"])
        # VirtualBox reads a VHD footer's UUID little-endian (Storage/VHD.cpp)
        read = uuid.UUID(bytes_le=known.bytes) if disk_format == "vhd" else known
        assert name == f"{{{read}}}"
    attached = machine.find(".//v:AttachedDevice/v:Image", space)
    assert attached is not None
    assert attached.get("uuid") == found[-1][0]
    adapters = machine.findall("v:Hardware/v:Network/v:Adapter", space)
    assert [each.attrib for each in adapters] == [{"slot": "0", "enabled": "false"}]


def test_a_vhd_child_in_another_folder_is_read_with_its_parents(
    vdbackup: Vdbackup, sets: dict[str, Path], tmp_path: Path
) -> None:
    said = vdbackup("open-with", "virtualbox", "latest", "-r", sets["vhd"], "--json")
    child = Path(said.json["file"]).with_name("machine.vhd")
    together = tmp_path / "together"
    shutil.copytree(Repository.open(sets["vhd"]).set().folder, together)
    shutil.copy(child, together)
    assert vdbackup("restore", "latest", tmp_path / "out.raw", "-r", sets["vhd"]).status == 0
    libvhdi.assert_holds(together / "machine.vhd", tmp_path / "out.raw", "vhd")


def test_the_session_of_another_program_is_kept_and_holds_its_point(
    vdbackup: Vdbackup, sets: dict[str, Path]
) -> None:
    made = vdbackup("open-with", "vmware", "latest", "-r", sets["vmdk"], "--json").json
    (session,) = vdbackup("sessions", "list", "--json").json
    assert (session["id"], session["state"], session["program"]) == (
        made["session"],
        "kept",
        "vmware",
    )
    assert vdbackup("delete", "latest", "-r", sets["vmdk"]).status == 1
    for action in ("reopen", "promote", "discard"):
        said = vdbackup("sessions", action, made["session"])
        assert said.status == 1
        assert "Whether the machine runs in VMware cannot be found out" in said.err
    assert vdbackup("sessions", "discard", made["session"], "--not-running").status == 0
    assert vdbackup("delete", "latest", "-r", sets["vmdk"]).status == 0


@pytest.mark.parametrize(
    ("program", "disk_format"),
    [
        ("virt-manager", "vhd"), ("virt-manager", "vhdx"), ("virtualbox", "vhdx"),
        ("virtualbox", "qcow2"), ("vmware", "vhd"), ("vmware", "vhdx"), ("vmware", "qcow2"),
    ],
)  # fmt: skip
def test_a_program_that_reads_such_chains_wrong_is_refused(
    vdbackup: Vdbackup, sets: dict[str, Path], program: str, disk_format: str
) -> None:
    said = vdbackup("open-with", program, "latest", "-r", sets[disk_format])
    assert said.status == 1
    assert "cannot boot from this point: it reads chains in" in said.err
    assert vdbackup("sessions", "list", "--json").json == []


def test_an_overlay_with_a_session_on_it_is_not_retargeted_anew(
    vdbackup: Vdbackup, kept: str, repository: Path
) -> None:
    before = layers(repository)
    said = vdbackup("retarget", 3, "-r", repository)
    assert said.status == 1
    assert f"the session {kept}" in said.err
    assert layers(repository) == before
