"""Machines in other programs: what they wrote is never lost, whatever disks they made of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.backup.once import made_once
from tests.cli.conftest import Vdbackup
from tests.guests import tiny_linux
from tests.oracles import qemu
from tests.recovery.libvirt import Libvirt
from vdbackup.backup import merge
from vdbackup.jobs import Task
from vdbackup.repository.repository import Repository

LIMIT = 240.0
VIRTUALBOX = "{http://www.virtualbox.org/}"


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Libvirt]:
    """libvirt's session daemon is at hand; it does not run yet."""
    with tempfile.TemporaryDirectory(prefix="lv-") as folder:  # a socket's path is short
        made = Libvirt(Path(folder))
        monkeypatch.setenv("PATH", str(made.programs), prepend=":")
        yield made


@pytest.fixture(params=["vmdk", "qcow2"])
def linux(request: pytest.FixtureRequest, vdbackup: Vdbackup, tmp_path: Path) -> Path:
    """A repository with two points of a small Linux that counts its boots."""
    image = tmp_path / "linux.img"
    shutil.copyfile(tiny_linux.image(), image)
    for seed in (1, 2):
        with image.open("r+b") as file:
            file.seek(1 << 20 >> 1)  # before the first partition
            file.write(bytes([seed]) * 512)
        done = vdbackup("backup", image, "-r", tmp_path / "r", "--format", request.param)
        assert done.status in (0, 3), done.err
    return tmp_path / "r"


def boots_of(vdbackup: Vdbackup, repository: Path, folder: Path) -> str:
    """How often the system has come up, as the newest promoted point has it."""
    folder.mkdir()
    assert vdbackup("extract", "-r", repository, 3, "/p2/bootcount", folder).status == 0
    return (folder / "bootcount").read_text().strip()


def runs_to_its_end(libvirt: Libvirt, name: str) -> None:
    """Start a machine, and wait until it has shut down by itself."""
    libvirt.virsh("start", name)
    end = time.monotonic() + LIMIT
    while libvirt.virsh("domstate", name).strip() != "shut off":
        assert time.monotonic() < end, "the machine does not end"
        time.sleep(0.2)


def machine_name(file: Path) -> str:
    return str(ET.parse(file).getroot().findtext("name"))


@pytest.mark.long
def test_libvirt_boots_the_machine_and_what_its_snapshots_hold_is_promoted(
    vdbackup: Vdbackup, linux: Path, libvirt: Libvirt, tmp_path: Path
) -> None:
    made = vdbackup("open-with", "virt-manager", "latest", "-r", linux, "--json").json
    session, file = made["session"], Path(made["file"])
    name = machine_name(file)
    with libvirt.running():
        libvirt.virsh("define", file)
        runs_to_its_end(libvirt, name)
        libvirt.virsh("snapshot-create-as", name, "s1", "--disk-only")
        runs_to_its_end(libvirt, name)  # what this writes is in the snapshot's disk alone
        assert sorted(path.name for path in file.parent.glob("session.*")) == [
            "session.json", "session.qcow2", "session.s1",
        ]  # fmt: skip
        said = vdbackup("sessions", "promote", session, "--json")
        assert said.status in (0, 3), said.err
        libvirt.virsh("undefine", name, "--snapshots-metadata")
    assert not file.parent.exists()
    assert boots_of(vdbackup, linux, tmp_path / "out") == "2"
    assert vdbackup("verify", "-r", linux).status == 0


@pytest.mark.long
def test_a_machine_that_runs_in_libvirt_is_neither_discarded_nor_promoted(
    vdbackup: Vdbackup, linux: Path, libvirt: Libvirt
) -> None:
    made = vdbackup("open-with", "virt-manager", "latest", "-r", linux, "--json").json
    name = machine_name(Path(made["file"]))
    with libvirt.running():
        libvirt.virsh("define", made["file"])
        libvirt.virsh("start", name, "--paused")
        for action in ("discard", "promote", "reopen"):
            said = vdbackup("sessions", action, made["session"], "--not-running")
            assert said.status == 1
            assert "its files open" in said.err
        libvirt.virsh("destroy", name)
        assert vdbackup("sessions", "discard", made["session"]).status == 0
        libvirt.virsh("undefine", name)


@pytest.mark.long
def test_a_snapshot_that_libvirt_keeps_elsewhere_is_promoted_too(
    vdbackup: Vdbackup, linux: Path, libvirt: Libvirt, tmp_path: Path
) -> None:
    made = vdbackup("open-with", "virt-manager", "latest", "-r", linux, "--json").json
    file = Path(made["file"])
    name, disk = machine_name(file), ET.parse(file).getroot().find("./devices/disk/target")
    assert disk is not None
    with libvirt.running():
        libvirt.virsh("define", file)
        elsewhere = f"{disk.get('dev')},file={tmp_path}/elsewhere.qcow2"
        libvirt.virsh("snapshot-create-as", name, "s1", "--disk-only", "--diskspec", elsewhere)
        runs_to_its_end(libvirt, name)
        assert vdbackup("sessions", "promote", made["session"]).status in (0, 3)
        libvirt.virsh("undefine", name, "--snapshots-metadata")
    assert boots_of(vdbackup, linux, tmp_path / "out") == "1"


@pytest.mark.long
def test_after_a_merge_the_machine_in_libvirt_starts_again(
    vdbackup: Vdbackup, linux: Path, libvirt: Libvirt
) -> None:
    """It is libvirt's own by then, with a snapshot and what the user has written into it."""
    made = vdbackup("open-with", "virt-manager", "latest", "-r", linux, "--json").json
    name = machine_name(Path(made["file"]))
    with libvirt.running():
        libvirt.virsh("define", made["file"])
        libvirt.virsh("desc", name, "--config", "mine")
        libvirt.virsh("snapshot-create-as", name, "s1", "--disk-only")
        assert vdbackup("merge", 2, "-r", linux).status == 0
        runs_to_its_end(libvirt, name)
        assert "<description>mine<" in libvirt.virsh("dumpxml", "--inactive", name)
        libvirt.virsh("undefine", name, "--snapshots-metadata")
        assert vdbackup("sessions", "discard", made["session"]).status == 0


# ------------------------------------------------------------------------- without their tools


@pytest.fixture
def session(vdbackup: Vdbackup, disk: Path, tmp_path: Path, no_tools: None) -> Path:
    """The folder of a session that virt-manager has; its machine has written once."""
    vdbackup("backup", disk, "-r", tmp_path / "r", "--format", "qcow2")
    made = vdbackup("open-with", "virt-manager", "latest", "-r", tmp_path / "r", "--json").json
    folder = Path(made["file"]).parent
    qemu.io(folder / "session.qcow2", "write -P 7 1M 64k", disk_format="qcow2")
    return folder


def above(path: Path, below: str, *writes: str) -> None:
    """A snapshot by hand, in which the machine goes on."""
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, path]
    subprocess.run(create, check=True)
    qemu.io(path, *writes, disk_format="qcow2")


def promoted(vdbackup: Vdbackup, session: Path) -> str:
    """Why it is not promoted; "" where it is."""
    said = vdbackup("sessions", "promote", session.name, "--not-running")
    return said.err if said.status == 1 else ""


def test_snapshots_by_hand_are_promoted_whole(
    vdbackup: Vdbackup, session: Path, tmp_path: Path
) -> None:
    above(session / "a.qcow2", "session.qcow2", "write -P 8 1M 4k")
    above(session / "b.qcow2", "a.qcow2", "write -P 9 2M 4k")
    wanted = tmp_path / "wanted.raw"
    convert = ["qemu-img", "convert", "-O", "raw", session / "b.qcow2", wanted]
    subprocess.run(convert, check=True)
    assert promoted(vdbackup, session) == ""
    assert not session.exists()
    assert vdbackup("restore", 2, tmp_path / "out.raw", "-r", tmp_path / "r").status == 0
    assert (tmp_path / "out.raw").read_bytes() == wanted.read_bytes()


def test_where_nobody_can_say_whether_it_runs_the_user_has_to(
    vdbackup: Vdbackup, session: Path
) -> None:
    for action in ("promote", "discard"):
        said = vdbackup("sessions", action, session.name)
        assert said.status == 1
        assert "Whether the machine runs in virt-manager cannot be found out" in said.err
        assert session.exists()
    assert vdbackup("sessions", "discard", session.name, "--not-running").status == 0


def test_two_branches_are_refused_and_nothing_is_lost(vdbackup: Vdbackup, session: Path) -> None:
    above(session / "a.qcow2", "session.qcow2", "write -P 8 1M 4k")
    above(session / "b.qcow2", "session.qcow2", "write -P 9 2M 4k")
    assert "more than one disk lies above session.qcow2" in promoted(vdbackup, session)
    assert (session / "a.qcow2").exists()
    assert (session / "b.qcow2").exists()


def test_a_copy_that_was_rebased_off_the_sessions_disk_is_refused(
    vdbackup: Vdbackup, session: Path
) -> None:
    above(session / "a.qcow2", "session.qcow2", "write -P 8 1M 4k")
    subprocess.run(["qemu-img", "rebase", "-b", "", session / "a.qcow2"], check=True)
    assert "do not lie above session.qcow2" in promoted(vdbackup, session)
    assert (session / "a.qcow2").exists()


@pytest.mark.parametrize("disk_format", ["vmdk", "vhd"])
def test_what_virtualbox_wrote_is_promoted_with_its_snapshots(
    vdbackup: Vdbackup, disk: Path, tmp_path: Path, no_tools: None, disk_format: str
) -> None:
    repository = tmp_path / "r"
    vdbackup("backup", disk, "-r", repository, "--format", disk_format)
    made = vdbackup("open-with", "virtualbox", "latest", "-r", repository, "--json").json
    file = Path(made["file"])
    child = tmp_path / "child.raw"
    restore = vdbackup("restore", 1, child, "-r", repository)
    assert restore.status == 0
    taken = snapshot(file, disk_format)
    with child.open("r+b") as raw:
        raw.seek(1 << 20)
        raw.write(b"\7" * (64 << 10))
    said = vdbackup("sessions", "promote", made["session"], "--not-running")
    assert said.status in (0, 3), said.err
    assert not taken.exists()
    assert vdbackup("restore", 2, tmp_path / "out.raw", "-r", repository).status == 0
    assert (tmp_path / "out.raw").read_bytes() == child.read_bytes()


def snapshot(file: Path, disk_format: str) -> Path:
    """As VirtualBox takes one: a child in Snapshots, noted in the settings, which is written to."""
    from vdbackup.disks.disk import ParentRef
    from vdbackup.disks.formats import create_disk, open_disk

    own = open_disk(file.with_name(f"machine.{disk_format}"), disk_format)
    facts, place = own.info, f"../machine.{disk_format}"
    own.close()
    (file.parent / "Snapshots").mkdir()
    path = file.parent / "Snapshots" / f"{{snapshot}}.{disk_format}"
    reference = ParentRef(facts.disk_id, facts.content_id, place)
    made = create_disk(path, disk_format, facts.virtual_size, reference)
    made.write(1 << 20, memoryview(b"\7" * (64 << 10)))
    made.flush()
    name = "{5b1c7b4e-0000-4000-8000-000000000001}"
    made.close()
    tree = ET.parse(file)
    own_disk = list(tree.iter(f"{VIRTUALBOX}HardDisk"))[-1]
    ET.SubElement(own_disk, f"{VIRTUALBOX}HardDisk", uuid=name, location=f"Snapshots/{path.name}")
    image = tree.find(f".//{VIRTUALBOX}AttachedDevice/{VIRTUALBOX}Image")
    assert image is not None
    image.set("uuid", name)
    tree.write(file)
    return path


@pytest.fixture
def two_points(vdbackup: Vdbackup, disk: Path, tmp_path: Path, no_tools: None) -> Path:
    repository = tmp_path / "r"

    def make() -> None:
        for seed in (1, 2):
            with disk.open("r+b") as image:
                image.seek(-512, 2)
                image.write(bytes([seed]) * 512)
            vdbackup("backup", disk, "-r", repository)

    made_once("two points for other programs", make, repository, disk)
    return repository


def named(file: Path) -> list[Path]:
    """The disks that a machine names, where it names them."""
    found = [each.get("file") or each.get("location") for each in ET.parse(file).getroot().iter()]
    return [file.parent / place for place in found if place]


def test_virtualboxs_settings_name_the_layers_that_a_merge_left(
    vdbackup: Vdbackup, two_points: Path
) -> None:
    made = vdbackup("open-with", "virtualbox", "latest", "-r", two_points, "--json").json
    snapshot(Path(made["file"]), "vmdk")
    assert vdbackup("merge", 2, "-r", two_points).status == 0
    disks = named(Path(made["file"]))
    assert [path.name for path in disks] == [
        "0002-full.vmdk", "0002-overlay.vmdk", "machine.vmdk", "{snapshot}.vmdk",
    ]  # fmt: skip
    assert all(path.exists() for path in disks)
    assert disks[0] == Repository.open(two_points).set().folder / "0002-full.vmdk"


def test_another_disk_that_the_user_gave_the_machine_stays_known_to_virtualbox(
    vdbackup: Vdbackup, two_points: Path
) -> None:
    made = vdbackup("open-with", "virtualbox", "latest", "-r", two_points, "--json").json
    file = Path(made["file"])
    other = '<HardDisk uuid="{}" location="/data/other.vdi" format="VDI"/>'
    for tag in ("<HardDisks>", "</HardDisks>"):  # before ours, and behind
        ours = other.format(f"{{{uuid.uuid4()}}}")
        both = f"{tag}{ours}" if tag == "<HardDisks>" else f"{ours}{tag}"
        file.write_text(file.read_text().replace(tag, both))
    assert vdbackup("merge", 2, "-r", two_points).status == 0
    names = [path.name for path in named(file)]
    assert names.count("other.vdi") == 2
    assert [name for name in names if name != "other.vdi"] == [
        "0002-full.vmdk", "0002-overlay.vmdk", "machine.vmdk"
    ]  # fmt: skip


def test_a_name_that_no_file_can_have_is_no_reason_to_fail(
    vdbackup: Vdbackup, two_points: Path
) -> None:
    made = vdbackup("open-with", "virtualbox", "latest", "-r", two_points, "--json").json
    file, name = Path(made["file"]), f"{two_points}/{'x' * 5000}"
    disk = f'<HardDisk uuid="{{{uuid.uuid4()}}}" location="{name}" format="VDI"/>'
    file.write_text(file.read_text().replace("</HardDisks>", f"{disk}</HardDisks>"))
    said = vdbackup("list", "-r", two_points)
    assert "Traceback" not in said.err
    assert said.status == 0


@pytest.fixture
def libvirts_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libvirt keeps the machines that it has."""
    folder = tmp_path / "config/libvirt/qemu"
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return folder


def virsh_answers(tmp_path: Path) -> None:
    """libvirt has no machines."""
    (tmp_path / "silent/virsh").write_text(
        '#!/bin/sh\ncase "$*" in *" list "*) exit 0;; esac\nexit 1\n'
    )


def test_a_machine_that_libvirt_never_had_gets_the_new_names_though_no_daemon_answers(
    vdbackup: Vdbackup, two_points: Path, libvirts_files: Path
) -> None:
    made = vdbackup("open-with", "virt-manager", "latest", "-r", two_points, "--json").json
    said = vdbackup("merge", 2, "-r", two_points)
    assert "libvirt" not in said.out + said.err
    assert all(path.exists() for path in named(Path(made["file"])))


def test_a_machine_keeps_its_names_until_libvirt_answers_where_it_has_it(
    vdbackup: Vdbackup, two_points: Path, tmp_path: Path, libvirts_files: Path
) -> None:
    """Else its copy would name what is gone, for ever."""
    made = vdbackup("open-with", "virt-manager", "latest", "-r", two_points, "--json").json
    before = Path(made["file"]).read_bytes()
    (libvirts_files / "machine.xml").write_bytes(before)
    said = vdbackup("merge", 2, "-r", two_points)
    assert "libvirt does not answer" in said.out + said.err
    assert Path(made["file"]).read_bytes() == before
    virsh_answers(tmp_path)
    said = vdbackup("list", "-r", two_points)
    assert "libvirt does not answer" not in said.out + said.err
    assert all(path.exists() for path in named(Path(made["file"])))


def test_virt_managers_machine_and_its_disk_name_the_layers_that_a_merge_left(
    vdbackup: Vdbackup, two_points: Path, disk: Path, tmp_path: Path
) -> None:
    virsh_answers(tmp_path)
    made = vdbackup("open-with", "virt-manager", "latest", "-r", two_points, "--json").json
    file = Path(made["file"])
    before = file.read_text()
    assert vdbackup("merge", 2, "-r", two_points).status == 0
    assert [path.name for path in named(file)] == [
        "session.qcow2", "0002-overlay.vmdk", "0002-full.vmdk",
    ]  # fmt: skip
    assert all(path.exists() for path in named(file))
    assert before.split("<devices>")[0] == file.read_text().split("<devices>")[0]
    qemu.assert_holds(file.with_name("session.qcow2"), disk, "qcow2")


def test_vmwares_machine_reads_on_after_a_merge(
    vdbackup: Vdbackup, two_points: Path, disk: Path
) -> None:
    made = vdbackup("open-with", "vmware", "latest", "-r", two_points, "--json").json
    assert vdbackup("merge", 2, "-r", two_points).status == 0
    qemu.assert_holds(Path(made["file"]).with_name("machine.vmdk"), disk)


@pytest.mark.parametrize("program", ["virtualbox", "virt-manager"])
def test_a_machine_that_a_power_cut_left_behind_is_linked_by_the_next_command(
    vdbackup: Vdbackup, two_points: Path, tmp_path: Path, program: str
) -> None:
    virsh_answers(tmp_path)
    made = vdbackup("open-with", program, "latest", "-r", two_points, "--json").json
    repository = Repository.open(two_points)
    backup_set = repository.set()
    merge.run(merge.plan(repository, backup_set.name, backup_set.points[1].id), Task())
    assert not all(path.exists() for path in named(Path(made["file"])))
    assert vdbackup("list", "-r", two_points).status == 0
    assert all(path.exists() for path in named(Path(made["file"])))


def test_another_repositorys_machines_are_let_be(
    vdbackup: Vdbackup, two_points: Path, disk: Path, tmp_path: Path
) -> None:
    made = vdbackup("open-with", "virtualbox", "latest", "-r", two_points, "--json").json
    (tmp_path / "r").rename(tmp_path / "elsewhere")
    before = Path(made["file"]).read_bytes()
    said = vdbackup("backup", disk, "-r", tmp_path / "r")
    assert (said.status, said.err) == (0, "")
    assert Path(made["file"]).read_bytes() == before


def test_settings_with_a_document_type_are_not_read(vdbackup: Vdbackup, two_points: Path) -> None:
    """Entities could fill the memory, or fetch a file."""
    made = vdbackup("open-with", "virtualbox", "latest", "-r", two_points, "--json").json
    file = Path(made["file"])
    text = file.read_text()
    head, _, rest = text.partition("\n")
    bomb = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    file.write_text(f'{head}<!DOCTYPE V [<!ENTITY e0 "ha">{bomb}]>\n{rest}')
    said = vdbackup("sessions", "reopen", made["session"], "--not-running")
    assert (said.status, "cannot be read" in said.err) == (1, True)


def test_a_machine_gets_a_controller_that_its_system_has_a_driver_for(
    vdbackup: Vdbackup, tmp_path: Path, no_tools: None
) -> None:
    """The small Linux knows virtio, NVMe and IDE, and no AHCI."""
    image = tmp_path / "linux.img"
    shutil.copyfile(tiny_linux.image(), image)
    assert vdbackup("backup", image, "-r", tmp_path / "r").status in (0, 3)
    said = {
        program: Path(
            vdbackup("open-with", program, 1, "-r", tmp_path / "r", "--json").json["file"]
        )
        for program in ("virt-manager", "virtualbox", "vmware")
    }
    bus = ET.parse(said["virt-manager"]).find("./devices/disk/target")
    assert bus is not None
    assert bus.get("bus") == "virtio"
    controller = ET.parse(said["virtualbox"]).find(f".//{VIRTUALBOX}StorageController")
    assert controller is not None
    assert controller.get("type") == "PIIX4"
    settings = said["vmware"].read_text()
    assert 'ide0:0.fileName = "machine.vmdk"' in settings
    assert "sata" not in settings


def test_a_record_that_names_another_program_is_no_traceback(
    vdbackup: Vdbackup, session: Path
) -> None:
    record = json.loads((session / "session.json").read_text())
    record["machine"]["program"] = "../somebody"
    (session / "session.json").write_text(json.dumps(record))
    said = vdbackup("sessions", "reopen", session.name, "--not-running")
    assert (said.status, "no program that is known" in said.err) == (1, True)
