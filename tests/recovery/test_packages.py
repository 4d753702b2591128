"""What clouds and appliances take: each kind is read right by programs that are not ours."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import tarfile
import uuid
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.backup.lab import Lab
from tests.guests import systems, tiny_linux
from tests.noise import noise
from tests.oracles import distribution, libvhdi, libvmdk, qemu
from tests.volumes import volumes
from vdbackup.disks.formats import open_disk
from vdbackup.errors import Cancelled, Damaged, RecoveryError
from vdbackup.guest.hardware import Controller, Hardware
from vdbackup.guest.model import Firmware
from vdbackup.jobs import CancelToken, Task
from vdbackup.recovery import ovf, restore
from vdbackup.recovery.ovf import Appliance
from vdbackup.recovery.packages import PACKAGES

MIB = 1 << 20
OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
VMW = "{http://www.vmware.com/schema/ovf}"
VBOX = "{http://www.virtualbox.org/ovf/machine}"
SIZES = (4 * MIB, 3 * MIB + 512 * 77, 512, 40 * MIB + 64 * 1024)


def filled(folder: Path, size: int) -> Lab:
    """A disk with data at both ends, holes, and what spans grain tables of 32 MiB; two points."""
    folder.mkdir()
    lab = Lab(folder, size)
    lab.poke(0, noise(min(size, 100_000), 1))
    lab.poke(-min(size, 70_000), noise(min(size, 70_000), 2))
    lab.backup()
    lab.poke(size // 2 // 512 * 512, noise(512, 3))
    lab.backup()
    return lab


def exported(lab: Lab, kind: str, target: Path) -> Path:
    point = lab.set.points[-1]
    plan = restore.plan(
        restore.RestoreRequest(lab.repository, "disk", point.id, target, disk_format=kind)
    )
    restore.run(plan, Task())
    return target


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A point of a small Linux that boots with a BIOS, from virtio, NVMe or IDE."""
    lab = Lab(tmp_path_factory.mktemp("linux"), tiny_linux.SIZE)
    shutil.copyfile(tiny_linux.image(), lab.image)
    lab.backup()
    return lab


@pytest.fixture(scope="module")
def ova(linux: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(linux, "ova", tmp_path_factory.mktemp("ova") / "büro no 1.ova")


def unpacked(ova: Path, folder: Path) -> list[Path]:
    """What GNU tar finds in it, in the archive's order."""
    folder.mkdir()
    done = subprocess.run(
        ["tar", "-xvf", ova, "-C", folder], capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return [folder / name for name in done.stdout.split()]


def described(ova: Path) -> ET.Element:
    with tarfile.open(ova) as archive:
        text = archive.extractfile(archive.next() or "")
        assert text is not None
        return ET.fromstring(text.read())


def items(envelope: ET.Element) -> dict[str, dict[str, str]]:
    """Each hardware item's facts, by the kind of resource."""
    found = {}
    for item in envelope.iter(f"{OVF}Item"):
        facts = {each.tag.removeprefix(RASD): each.text or "" for each in item}
        assert list(facts) == sorted(facts)  # the schema's order
        found[facts["ResourceType"]] = facts
    return found


# -------------------------------------------------------------------------------------- fixed VHD


@pytest.mark.parametrize("size", SIZES)
def test_a_fixed_vhd_is_the_disk_in_whole_mib_and_a_footer(tmp_path: Path, size: int) -> None:
    lab = filled(tmp_path / "lab", size)
    target = exported(lab, "vhd-fixed", tmp_path / "azure.vhd")
    rounded = -(-size // MIB) * MIB
    assert target.stat().st_size == rounded + 512
    raw = tmp_path / "wanted.raw"
    raw.write_bytes(lab.image.read_bytes().ljust(rounded, b"\0"))
    footer = target.read_bytes()[-512:]
    original, current, *_, kind = struct.unpack_from(">QQHBBI", footer, 40)
    assert (original, current, kind) == (rounded, rounded, 2)
    assert footer[16:24] == b"\xff" * 8  # no dynamic header
    libvhdi.assert_holds(target, raw, "vhd")
    distribution.assert_holds(target, raw)
    qemu.assert_holds(target, raw, "vpc")


def test_a_fixed_vhd_takes_no_space_for_what_the_disk_has_not(tmp_path: Path) -> None:
    lab = filled(tmp_path / "lab", 40 * MIB)
    target = exported(lab, "vhd-fixed", tmp_path / "azure.vhd")
    assert target.stat().st_blocks * 512 < 2 * MIB


def test_a_gpt_is_whole_on_the_rounded_disk(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 8 * MIB + 100 * 512)
    script = "label: gpt\nstart=2048, size=4096\n"
    subprocess.run(
        ["sfdisk", "-q", lab.image], input=script, text=True, check=True, capture_output=True
    )
    lab.backup()
    target = exported(lab, "vhd-fixed", tmp_path / "azure.vhd")
    raw = tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", target, raw], check=True)
    done = subprocess.run(["sgdisk", "-v", raw], capture_output=True, text=True, check=False)
    assert "No problems found" in done.stdout, done.stdout + done.stderr


# --------------------------------------------------------------------------------- compressed VMDK


@pytest.mark.parametrize("size", SIZES)
def test_a_compressed_vmdk_holds_the_disk(tmp_path: Path, size: int) -> None:
    lab = filled(tmp_path / "lab", size)
    target = exported(lab, "vmdk-stream", tmp_path / "cloud.vmdk")
    qemu.assert_holds(target, lab.image)
    libvmdk.assert_holds(target, lab.image)
    distribution.assert_holds(target, lab.image)
    info = json.loads(
        subprocess.run(
            ["qemu-img", "info", "--output=json", target], capture_output=True, check=True
        ).stdout
    )
    assert info["format-specific"]["data"]["create-type"] == "streamOptimized"
    assert info["virtual-size"] == size


def test_a_compressed_vmdk_is_read_once_from_its_start_to_its_end(tmp_path: Path) -> None:
    """As VirtualBox and ESX import it: by the markers alone, grains in the disk's order."""
    lab = filled(tmp_path / "lab", 40 * MIB)
    data = exported(lab, "vmdk-stream", tmp_path / "cloud.vmdk").read_bytes()
    magic, version, flags, capacity, grain = struct.unpack_from("<4sIIQQ", data)
    directory = struct.unpack_from("<Q", data, 56)[0]
    assert (magic, version, flags, capacity, grain) == (b"KDMV", 3, 0x30001, 40 * 2048, 128)
    assert directory == 2**64 - 1
    at, last, kinds = struct.unpack_from("<Q", data, 64)[0] * 512, -1, []
    while True:
        sector, size, kind = struct.unpack_from("<QII", data, at)
        if size:
            assert sector > last
            last = sector
            at += -(-(size + 12) // 512) * 512
            continue
        kinds.append(kind)
        at += 512
        if kind == 0:
            break
        at += sector * 512
    assert at == len(data)
    assert kinds == [1, 1, 2, 3, 0]  # two grain tables, the directory, the footer, the end


def test_our_own_reader_takes_a_compressed_vmdk_for_a_source(tmp_path: Path) -> None:
    lab = filled(tmp_path / "lab", 3 * MIB)
    target = exported(lab, "vmdk-stream", tmp_path / "cloud.vmdk")
    disk = open_disk(target, "vmdk")
    try:
        assert disk.info.virtual_size == 3 * MIB
    finally:
        disk.close()


# -------------------------------------------------------------------------------------------- OVA


def test_an_ova_begins_with_its_description_and_names_the_digests(
    ova: Path, tmp_path: Path
) -> None:
    files = unpacked(ova, tmp_path / "out")
    assert [path.suffix for path in files] == [".ovf", ".mf", ".vmdk"]
    assert all(path.name.isascii() for path in files)
    for line in files[1].read_text().splitlines():
        name, _, digest = line.removeprefix("SHA256(").partition(")= ")
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert ova.stat().st_size % 10240 == 0


def test_the_disk_in_an_ova_is_the_point(linux: Lab, ova: Path, tmp_path: Path) -> None:
    disk = unpacked(ova, tmp_path / "out")[-1]
    qemu.assert_holds(disk, linux.image)
    distribution.assert_holds(disk, linux.image)


def test_an_ova_describes_a_machine_that_knows_its_disk(ova: Path, tmp_path: Path) -> None:
    envelope = described(ova)
    disk_file = unpacked(ova, tmp_path / "out")[-1]
    file, disk = next(envelope.iter(f"{OVF}File")), next(envelope.iter(f"{OVF}Disk"))
    assert file.get(f"{OVF}href") == disk_file.name
    assert file.get(f"{OVF}size") == str(disk_file.stat().st_size)
    assert disk.get(f"{OVF}capacity") == str(tiny_linux.SIZE)
    assert disk.get(f"{OVF}fileRef") == file.get(f"{OVF}id")
    found = items(envelope)
    assert set(found) == {"3", "4", "5", "17"}  # processor, memory, IDE, disk: and no network card
    assert found["17"]["Parent"] == found["5"]["InstanceID"]
    assert found["17"]["HostResource"] == f"ovf:/disk/{disk.get(f'{OVF}diskId')}"
    assert next(envelope.iter(f"{VMW}Config")).get(f"{VMW}value") == "bios"
    assert envelope.find(f".//{VBOX}Machine") is None


@pytest.mark.long
def test_the_disk_in_an_ova_boots_on_the_controller_that_it_names(
    ova: Path, tmp_path: Path
) -> None:
    disk = unpacked(ova, tmp_path / "out")[-1]
    assert items(described(ova))["5"]["ResourceSubType"] == "PIIX4"
    done = subprocess.run(
        ["qemu-system-x86_64", "-machine", "pc", "-m", "256", "-nodefaults", "-display", "none",
         "-serial", "stdio", "-no-reboot", "-snapshot",
         "-drive", f"file={disk},format=vmdk,if=ide"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert tiny_linux.ALIVE in done.stdout


# ---------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("kind", PACKAGES)
def test_nothing_is_left_of_an_export_that_was_cancelled(
    linux: Lab, tmp_path: Path, kind: str
) -> None:
    cancel = CancelToken()
    plan = restore.plan(
        restore.RestoreRequest(
            linux.repository, "disk", linux.set.points[0].id, tmp_path / "out", disk_format=kind
        )
    )

    def report(*_: object) -> None:
        cancel.cancel()

    with pytest.raises(Cancelled):
        restore.run(plan, Task(report, cancel))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", PACKAGES)
def test_only_its_owner_may_read_it(linux: Lab, tmp_path: Path, kind: str) -> None:
    assert exported(linux, kind, tmp_path / "out").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["vhd-fixed", "vmdk-stream"])
def test_no_appliance_is_made_of_a_damaged_point(tmp_path: Path, kind: str) -> None:
    lab = filled(tmp_path / "lab", 3 * MIB)
    layer = lab.layer(lab.set.points[0])
    data = bytearray(layer.read_bytes())
    data[data.rindex(noise(512, 2)[:64])] ^= 1
    layer.chmod(0o600)
    layer.write_bytes(data)
    target = tmp_path / "out"
    plan = restore.plan(
        restore.RestoreRequest(
            lab.repository, "disk", lab.set.points[-1].id, target, disk_format=kind
        )
    )
    with pytest.raises(Damaged):
        restore.run(plan, Task())
    assert not target.exists()


def test_a_volume_without_its_disk_becomes_no_appliance(tmp_path: Path) -> None:
    systems.linux(tmp_path / "tree", ["ahci"])
    volumes.ext("ext4", size=16 * MIB)(tmp_path / "tree", tmp_path / "volume")
    lab = Lab(tmp_path, 16 * MIB)
    shutil.copyfile(tmp_path / "volume", lab.image)
    lab.backup()
    with pytest.raises(RecoveryError, match="An appliance cannot boot this point"):
        exported(lab, "ova", tmp_path / "out.ova")


def test_virtualbox_is_told_of_a_uefi_in_its_own_words() -> None:
    """By OVF alone it gives every machine a BIOS; it finds the disk by the UUID of both."""
    machine = Hardware(controller=Controller.AHCI, firmware=Firmware.UEFI)
    disk_id = str(uuid.uuid4())
    described = Appliance("a <b>", True, machine, "disk.vmdk", disk_id, MIB, MIB)
    envelope = ET.fromstring(ovf.envelope(described, 7))
    assert next(envelope.iter(f"{VMW}Config")).get(f"{VMW}value") == "efi"
    assert next(envelope.iter(f"{OVF}Disk")).get(f"{VBOX}uuid") == disk_id
    own = next(envelope.iter(f"{VBOX}Machine"))
    assert own.get(f"{OVF}required") == "false"
    assert own.find(f"{OVF}Info") is not None  # VMware wants it
    assert [each.get("type") for each in own.iter(f"{OVF}Firmware")] == ["EFI"]
    assert [each.get("uuid") for each in own.iter(f"{OVF}Image")] == [f"{{{disk_id}}}"]
    assert [each.get("enabled") for each in own.iter(f"{OVF}Adapter")] == ["false"]


def test_the_place_before_the_disk_is_kept_free_for_every_size() -> None:
    described = Appliance("x", False, Hardware(), "disk.vmdk", str(uuid.uuid4()), MIB, MIB)
    described = replace(described, hardware=Hardware(controller=Controller.AHCI))
    lengths = [len(ovf.envelope(described, size)) for size in (0, 10**12, 1 << 63)]
    assert lengths == sorted(lengths)
