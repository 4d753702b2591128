"""What an inspection finds out about small systems that other programs put on their disks."""

from __future__ import annotations

import contextlib
import shutil
import struct
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.guests import lilo, systems
from tests.sources.loops import unmount
from tests.volumes import volumes
from tests.volumes.volumes import MIB
from vdbackup.disks.chain import Chain
from vdbackup.guest.choice import HardwareRequest, choose, edited
from vdbackup.guest.disk import Disk
from vdbackup.guest.hardware import Controller
from vdbackup.guest.inspect import inspect
from vdbackup.guest.linux import menus
from vdbackup.guest.model import (
    Firmware,
    Generator,
    Guest,
    LoaderKind,
    System,
)
from vdbackup.qemu import launch
from vdbackup.recovery.retarget import edits

GRUB = b"\xeb\x63\x90" + b"GRUB Geom\0Hard Disk\0Read\0 Error\0"
"""How GRUB's boot.img is to be known."""


def look(disk: Path) -> Guest:
    with Chain.open(disk, "raw") as chain:
        return inspect(chain)


def disk_of(disk: Path, parts: list[Path], table: str = "dos", code: bytes = GRUB) -> Path:
    """A disk of some volumes, one after the other, that begins with boot code."""
    sizes = [path.stat().st_size // MIB for path in parts]
    volumes.blank(disk, (sum(sizes) + 3) * MIB)
    kind = ", type=U" if table == "gpt" else ""
    lines = [f"size={size}M{kind if number else ''}" for number, size in enumerate(sizes)]
    volumes.partition(disk, f"label: {table}\n" + "\n".join(lines) + "\n")
    with disk.open("r+b") as file:
        file.write(code)
        offset = MIB
        for path, size in zip(parts, sizes, strict=True):
            file.seek(offset)
            file.write(path.read_bytes())
            offset += size * MIB
    return disk


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.mark.parametrize("kind", ["ext4", "ext3", "xfs", "btrfs"])
def test_a_linux_is_found_on_each_file_system(tree: Path, tmp_path: Path, kind: str) -> None:
    systems.linux(tree, ["ahci", "virtio-blk"], root="/dev/sda1")
    volumes.MAKERS[kind](tree, tmp_path / "root.img")
    guest = look(disk_of(tmp_path / "disk.img", [tmp_path / "root.img"]))
    assert (guest.system, guest.name, guest.version) == (
        System.LINUX, "Debian GNU/Linux 12 (bookworm)", "12",
    )  # fmt: skip
    assert guest.architecture == "x86_64"
    assert guest.root is not None
    assert (guest.root.volume, guest.root.kind) == ("p1", volumes.NAMES[kind])
    blkid = volumes.run("blkid", "-p", "-o", "value", "-s", "UUID", tmp_path / "root.img").strip()
    assert guest.root.uuid == blkid
    assert guest.firmware == (Firmware.BIOS,)
    assert guest.kernel is not None
    assert guest.kernel.version == systems.VERSION
    assert guest.kernel.command_line == "root=/dev/sda1 ro quiet"
    assert guest.kernel.early == {"ahci", "virtio_blk", "crc32", "sd_mod"}
    assert guest.kernel.generator is Generator.INITRAMFS_TOOLS
    assert "virtio_scsi" in guest.kernel.modules
    names = {(name.name, name.file.path, name.line, name.essential) for name in guest.device_names}
    assert names == {
        ("/dev/sda1", "/etc/fstab", 2, True),
        ("/dev/sda1", "/boot/grub/grub.cfg", 4, True),
        ("/dev/sda1", "/boot/grub/grub.cfg", 9, False),
    }
    assert not guest.problems


def test_a_boot_partition_of_its_own_is_found_by_fstab(tree: Path, tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    boot.mkdir()
    volumes_uuid = "0a0b0c0d-0000-4000-8000-000000000001"
    fstab = f"UUID={volumes_uuid} /boot ext2 defaults 0 2\n/dev/vda2 / ext4 defaults 0 1\n"
    systems.linux(tree, root="/dev/vda2", fstab=fstab, boot=boot)
    volumes.ext("ext2", "-U", volumes_uuid, size=16 * MIB)(boot, tmp_path / "boot.img")
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    guest = look(disk_of(tmp_path / "disk.img", [tmp_path / "boot.img", tmp_path / "root.img"]))
    assert guest.root is not None
    assert guest.root.volume == "p2"
    assert guest.boot is not None
    assert guest.boot.uuid == volumes_uuid
    assert guest.kernel is not None
    assert guest.kernel.image.volume == "p1"
    assert guest.kernel.early >= {"virtio_pci", "virtio_blk"}


ROOT, HOME, FAR = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
ABSENT = f"""\
UUID={ROOT} / ext4 defaults 0 1
UUID={HOME} /home ext4 defaults 0 2
UUID={FAR} /mnt/backup ext4 defaults 0 2
UUID={FAR} /mnt/calm ext4 nofail 0 2
/mnt/backup/images /srv none bind 0 0
LABEL=far none swap sw 0 0
tmpfs /tmp tmpfs defaults 0 0
"""


def with_home(tree: Path, folder: Path) -> tuple[Path, Path]:
    """A disk with a root that waits for what ABSENT names, and one with its /home."""
    systems.linux(tree, fstab=ABSENT)
    (tree / "etc/crypttab").write_text(f"far UUID={FAR} none luks\ncalm UUID={FAR} - nofail\n")
    found = []
    for name, identity in ((tree.name, ROOT), ("home", HOME)):
        (folder / name).mkdir(exist_ok=True)
        volumes.ext("ext4", "-U", identity)(folder / name, folder / f"{name}.volume")
        found.append(disk_of(folder / f"{name}.img", [folder / f"{name}.volume"]))
    return found[0], found[1]


def test_what_a_start_waits_for_and_no_disk_has_is_found(tree: Path, tmp_path: Path) -> None:
    root, home = with_home(tree, tmp_path)

    def absent(*disks: Path) -> set[tuple[str, str, int, bool]]:
        with contextlib.ExitStack() as stack:
            chain, *others = (stack.enter_context(Chain.open(disk, "raw")) for disk in disks)
            found = inspect(chain, others).absent
        return {(name.name, name.file.path, name.line, name.essential) for name in found}

    alone = {
        (f"UUID={HOME}", "/etc/fstab", 2, True),
        (f"UUID={FAR}", "/etc/fstab", 3, True),
        ("/mnt/backup/images", "/etc/fstab", 5, True),
        ("LABEL=far", "/etc/fstab", 6, False),
        (f"UUID={FAR}", "/etc/crypttab", 1, False),
    }
    assert absent(root) == alone
    assert absent(root, home) == {each for each in alone if each[0] != f"UUID={HOME}"}
    with home.open("r+b") as file:  # anything may be in there
        file.seek(MIB)
        file.write(b"LUKS\xba\xbe\0\2")
    assert absent(root, home) == set()


def test_who_starts_it_all_the_same_is_told_what_it_waits_for(tree: Path, tmp_path: Path) -> None:
    hardware = choose(look(with_home(tree, tmp_path)[0]))
    assert [(each.sentence.partition(", which")[0], each.blocks) for each in hardware.problems] == [
        (f"/etc/fstab wants UUID={HOME}", False)
    ]
    after = edited(look(tmp_path / "tree.img"), HardwareRequest(), hardware)
    assert after.problems == ()


def test_what_an_initramfs_would_look_for_to_go_on_is_found(tree: Path, tmp_path: Path) -> None:
    systems.linux(tree)
    menu = tree / "boot/grub/grub.cfg"
    menu.write_text(menu.read_text().replace("root=/dev/vda1", f"root=/dev/vda1 resume=UUID={FAR}"))
    volumes.MAKERS["ext4"](tree, tmp_path / "root.img")
    guest = look(disk_of(tmp_path / "disk.img", [tmp_path / "root.img"]))
    assert [(each.name, each.file.path, each.essential) for each in guest.absent] == [
        (f"UUID={FAR}", "/boot/grub/grub.cfg", False)
    ]


def test_a_fedora_is_started_by_the_entries_in_its_boot(tree: Path, tmp_path: Path) -> None:
    """GRUB's command blscfg: loader/entries, and variables from grubenv; root in a subvolume."""
    systems.linux(tree, ["ahci"])
    grub = tree / "boot/grub2"
    (tree / "boot/grub").rename(grub)
    (grub / "grub.cfg").write_text("insmod blscfg\nblscfg\n")
    (grub / "grubenv").write_text("# GRUB Environment Block\nkernelopts=root=UUID=1 ro rhgb\n")
    entries = tree / "boot/loader/entries"
    entries.mkdir(parents=True)
    for version in ("5.9.1", systems.VERSION):
        (entries / f"1234-{version}.conf").write_text(
            f"title Fedora\nversion {version}\nlinux /boot/vmlinuz-{version}\n"
            f"initrd /boot/initrd.img-{version}\noptions $kernelopts quiet\n"
        )
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    guest = look(disk_of(tmp_path / "disk.img", [tmp_path / "root.img"]))
    assert guest.kernel is not None
    assert guest.kernel.command_line == "root=UUID=1 ro rhgb quiet"
    assert guest.kernel.initramfs[0].path == f"/boot/initrd.img-{systems.VERSION}"


def test_a_red_hat_with_uefi_keeps_what_its_kernels_are_told_on_the_efi_partition(
    tree: Path, tmp_path: Path
) -> None:
    """RHEL 8: /boot/grub2/grubenv is a link into what is mounted at /boot/efi."""
    systems.linux(tree, ("ahci", "virtio_pci", "virtio_blk"))
    built_in = ("virtio_pci", "virtio_blk", "sd_mod", "ext4", "vfat", "nls_cp437", "nls_ascii")
    lines = (f"kernel/{name}.ko\n" for name in (*built_in, "nls_iso8859_1", "nls_utf8"))
    (tree / "usr/lib/modules" / systems.VERSION / "modules.builtin").write_text("".join(lines))
    (tree / "boot/grub/grub.cfg").unlink()
    (tree / "boot/grub").rename(tree / "boot/grub2")
    (tree / "boot/grub2/grubenv").symlink_to("../efi/EFI/redhat/grubenv")
    (tree / "boot/loader/entries").mkdir(parents=True)
    (tree / "boot/loader/entries/1234.conf").write_text(
        f"linux /boot/vmlinuz-{systems.VERSION}\ninitrd /boot/initrd.img-{systems.VERSION}\n"
        "options $kernelopts $tuned_params\n"
    )
    vendor = tmp_path / "efi/EFI/redhat"
    vendor.mkdir(parents=True)
    (vendor / "grubx64.efi").write_bytes(b"MZ GRUB")
    block = "# GRUB Environment Block\nkernelopts=root=/dev/sda1 ro rhgb\n".ljust(1024, "#")
    (vendor / "grubenv").write_text(block)
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    volumes.fat(32, 64 * MIB, "-s", "1")(tmp_path / "efi", tmp_path / "efi.img")
    parts = [tmp_path / "root.img", tmp_path / "efi.img"]
    disk = disk_of(tmp_path / "disk.img", parts, table="gpt", code=b"")
    guest = look(disk)
    assert guest.kernel is not None
    assert guest.kernel.command_line == "root=/dev/sda1 ro rhgb"
    with Chain.open(disk, "raw") as chain:
        found = edits.find(
            Disk(chain), guest, choose(guest, HardwareRequest(Controller.AHCI))
        ).changes
    changed = {(each.volume, each.path): each.after for each in found}
    assert "root=UUID=" in changed["p2", "/EFI/redhat/grubenv"]
    assert len(changed["p2", "/EFI/redhat/grubenv"]) == len(block)


LEGACY = """\
# menu.lst - See: grub(8), info grub, update-grub(8)
default\t\t1
timeout=5
## kopt=root=/dev/sda1 ro
title\t\tOther operating systems:
root
title\t\tDebian GNU/Linux, kernel {version}
root\t\t(hd0,0)
kernel\t\t(hd0,0)/boot/vmlinuz-{version} root=/dev/sda1 ro quiet
initrd\t\t/boot/initrd.img-{version}
savedefault
title Xen
kernel --no-mem-option /boot/xen.gz
"""


@pytest.mark.parametrize("name", ["menu.lst", "grub.conf"])
def test_the_menu_of_grubs_first_generation_is_read(tree: Path, tmp_path: Path, name: str) -> None:
    systems.linux(tree, ["ahci", "virtio-blk", "virtio-pci"], root="UUID=1")
    (tree / "boot/grub/grub.cfg").unlink()
    (tree / "boot/grub" / name).write_text(LEGACY.format(version=systems.VERSION))
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    guest = look(disk_of(tmp_path / "disk.img", [tmp_path / "root.img"]))
    assert guest.kernel is not None
    assert guest.kernel.command_line == "root=/dev/sda1 ro quiet"
    assert guest.kernel.initramfs[0].path == f"/boot/initrd.img-{systems.VERSION}"
    names = {(each.name, each.file.path, each.line, each.essential) for each in guest.device_names}
    assert names == {("/dev/sda1", f"/boot/grub/{name}", 9, True)}
    assert guest.loaders[0].configuration is not None
    assert guest.loaders[0].configuration.path == f"/boot/grub/{name}"


def test_a_red_hat_of_before_2020_has_its_menu_on_the_efi_partition(
    tree: Path, tmp_path: Path
) -> None:
    systems.linux(tree, ["ahci", "virtio-blk", "virtio-pci"], root="UUID=1")
    efi = tmp_path / "efi"
    for vendor, text in (
        ("BOOT", "search --fs-uuid 1\nconfigfile /boot/grub/grub.cfg\n"),
        (
            "centos",
            systems.GRUB_CFG.format(prefix="/boot", root="/dev/sda1", version=systems.VERSION),
        ),
    ):
        (efi / "EFI" / vendor).mkdir(parents=True)
        (efi / "EFI" / vendor / "grub.cfg").write_text(text)
    (efi / "EFI/centos/grubx64.efi").write_bytes(b"MZ GRUB")
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    volumes.fat(32, 64 * MIB, "-s", "1")(efi, tmp_path / "efi.img")
    parts = [tmp_path / "root.img", tmp_path / "efi.img"]

    def named(disk: Path) -> set[str]:
        guest = look(disk_of(disk, parts, table="gpt", code=b""))
        return {each.file.path for each in guest.device_names if each.essential}

    assert named(tmp_path / "old.img") == set()
    (tree / "boot/grub/grub.cfg").unlink()
    (tmp_path / "root.img").unlink()
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    assert named(tmp_path / "new.img") == {"/EFI/centos/grub.cfg"}


@contextlib.contextmanager
def mounted(image: Path) -> Iterator[Path]:
    folder = image.with_suffix(".mounted")
    folder.mkdir()
    volumes.run("mount", "-o", "loop", image, folder)
    try:
        yield folder
    finally:
        unmount(folder)


@pytest.mark.parametrize(
    ("made", "default", "flags", "root"),
    [
        (["@/.snapshots/1/snapshot", "@/.snapshots/9/snapshot"], "@/.snapshots/9/snapshot", "",
         "@/.snapshots/9/snapshot"),
        (["@", "@_before"], "", " rootflags=subvol=@_before", "@_before"),
        (["@", "@_before"], "@_before", " rootflags=compress=zstd,subvol=/@", "@"),
        (["arch"], "", " rootflags=subvol=arch", "arch"),
        (["home", "system"], "", "", "system"),
    ],
)  # fmt: skip
def test_the_root_is_the_subvolume_that_is_mounted(
    as_root: None, tree: Path, tmp_path: Path, made: list[str], default: str, flags: str, root: str
) -> None:
    """snapper goes back by another default, Timeshift by a name; installers may take any name."""
    image = tmp_path / "root.img"
    volumes.blank(image, 160 * MIB)
    identity = str(uuid.uuid4())
    volumes.run("mkfs.btrfs", "-q", "-U", identity, image)
    systems.linux(tree, root=f"UUID={identity}{flags}")
    with mounted(image) as top:
        for name in made:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            volumes.run("btrfs", "subvolume", "create", top / name)
            if name != "home":
                shutil.copytree(tree, top / name, symlinks=True, dirs_exist_ok=True)
        if default:
            volumes.run("btrfs", "subvolume", "set-default", top / default)
    guest = look(disk_of(tmp_path / "disk.img", [image]))
    assert guest.root is not None
    assert guest.root.subvolume == root
    assert guest.kernel is not None
    assert guest.kernel.image.path == f"/{root}/boot/vmlinuz-{systems.VERSION}"


@pytest.mark.parametrize(
    ("program", "kind", "fallback"),
    [
        ("EFI/BOOT/BOOTX64.EFI", LoaderKind.SYSTEMD_BOOT, True),
        ("EFI/debian/shimx64.efi", LoaderKind.GRUB, False),
    ],
)
def test_the_loader_on_the_efi_partition_is_found(
    tree: Path, tmp_path: Path, program: str, kind: LoaderKind, fallback: bool
) -> None:
    systems.linux(tree, ["nvme"], root="/dev/nvme0n1p1")
    efi = tmp_path / "efi"
    (efi / program).parent.mkdir(parents=True)
    (efi / program).write_bytes(b"MZ... #### LoaderInfo: systemd-boot 252 ####")
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    volumes.fat(32, 64 * MIB, "-s", "1")(efi, tmp_path / "efi.img")
    parts = [tmp_path / "root.img", tmp_path / "efi.img"]
    guest = look(disk_of(tmp_path / "disk.img", parts, table="gpt", code=b""))
    assert guest.efi is not None
    assert guest.efi.volume == "p2"
    (loader,) = guest.loaders
    assert (loader.kind, loader.firmware, loader.fallback) == (kind, Firmware.UEFI, fallback)
    assert loader.program is not None
    assert loader.program.path == f"/{program}"


def test_of_a_machine_the_loader_and_the_root_are_found_on_whichever_disk_has_them(
    tree: Path, tmp_path: Path
) -> None:
    systems.linux(tree, ["nvme"], root="LABEL=top")
    efi = tmp_path / "efi"
    (efi / "EFI/BOOT").mkdir(parents=True)
    (efi / "EFI/BOOT/BOOTX64.EFI").write_bytes(b"MZ... #### LoaderInfo: systemd-boot 252 ####")
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    volumes.fat(32, 64 * MIB, "-s", "1")(efi, tmp_path / "efi.img")
    first = disk_of(tmp_path / "first.img", [tmp_path / "root.img"], table="gpt", code=b"")
    second = disk_of(tmp_path / "second.img", [tmp_path / "efi.img"], table="gpt", code=b"")
    assert look(first).efi is None
    with Chain.open(first, "raw") as one, Chain.open(second, "raw") as other:
        guest = inspect(one, [other])
        chosen = launch.hardware_for(one, others=[other])
        assert launch.boot_disk(one, [other], chosen) == 1
    assert guest.efi is not None
    assert guest.efi.volume == "disk2:p1"
    assert [loader.firmware for loader in guest.loaders] == [Firmware.UEFI]
    assert chosen.firmware is Firmware.UEFI


def test_grubs_menu_is_read_as_update_grub_writes_it() -> None:
    text = """\
set default="1"
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
fi
menuentry 'Ubuntu' --class ubuntu $menuentry_id_option 'simple' {
\tlinux\t/boot/vmlinuz-6.8.0-41-generic root=UUID=1234 ro  quiet splash
\tinitrd\t/boot/initrd.img-6.8.0-41-generic
}
menuentry 'It\\'s "other"' {
    linuxefi ($root)/vmlinuz root=/dev/sda2
    initrdefi ($root)/microcode.img "($root)/initrd one.img"
}
"""
    first, second = menus.grub(text)
    assert (first.image, first.command_line, first.line) == ("/vmlinuz", "root=/dev/sda2", 10)
    assert first.initramfs == ["/microcode.img", "/initrd one.img"]
    assert second.image == "/boot/vmlinuz-6.8.0-41-generic"
    assert second.command_line == "root=UUID=1234 ro  quiet splash"


def test_a_syslinux_on_fat_is_read(tiny_linux: Path) -> None:
    guest = look(tiny_linux)
    assert guest.system is System.LINUX
    assert [loader.kind for loader in guest.loaders] == [LoaderKind.SYSLINUX]
    assert guest.kernel is not None
    assert guest.kernel.command_line == "console=ttyS0 quiet panic=-1 no_timer_check"
    assert guest.kernel.early >= {"virtio_pci", "virtio_blk", "ata_piix"}


@pytest.fixture
def started_by_lilo(tree: Path, tmp_path: Path) -> Path:
    """A disk whose Linux has AHCI's driver early, virtio's in /lib/modules, and LILO."""
    systems.linux(tree, ["ahci"], root="/dev/sda1")
    lilo.configure(tree, systems.VERSION, "/dev/sda1")
    volumes.MAKERS["ext4"](tree, tmp_path / "root.img")
    return disk_of(tmp_path / "disk.img", [tmp_path / "root.img"], code=lilo.LILO)


def test_lilo_is_known_and_what_its_configuration_starts(started_by_lilo: Path) -> None:
    guest = look(started_by_lilo)
    assert [loader.kind for loader in guest.loaders] == [LoaderKind.LILO]
    assert guest.by_sectors
    assert guest.loaders[0].configuration is not None
    assert guest.loaders[0].configuration.path == "/etc/lilo.conf"
    assert guest.kernel is not None
    assert guest.kernel.image.path == f"/boot/vmlinuz-{systems.VERSION}"
    assert [file.path for file in guest.kernel.initramfs] == [f"/boot/initrd.img-{systems.VERSION}"]
    assert guest.kernel.command_line == "root=/dev/sda1 ro quiet splash"
    in_menu = [name for name in guest.device_names if name.file.path == "/etc/lilo.conf"]
    assert [(name.name, name.essential, name.fixed) for name in in_menu] == [
        ("/dev/sda1", True, True),
        ("/dev/sda1", False, True),  # of what does not start automatically
    ]


def test_lilo_in_the_active_partition_is_known(started_by_lilo: Path) -> None:
    with started_by_lilo.open("r+b") as file:
        file.write(b"\xfa\xb8\x00\x10\x8e\xd0".ljust(440, b"\0"))  # one that passes on
        file.seek(446)
        file.write(b"\x80")
        file.seek(MIB)
        file.write(lilo.LILO.ljust(510, b"\0") + b"\x55\xaa")
    assert [loader.kind for loader in look(started_by_lilo).loaders] == [LoaderKind.LILO]


def test_its_name_elsewhere_in_a_sector_is_not_lilo(started_by_lilo: Path) -> None:
    with started_by_lilo.open("r+b") as file:
        file.write(b"\xfa\xeb\x21LILO".ljust(440, b"\0"))
    guest = look(started_by_lilo)
    assert [loader.kind for loader in guest.loaders] == [LoaderKind.OTHER]
    assert guest.loaders[0].configuration is None
    assert not guest.by_sectors


def test_what_lilo_starts_is_started_by_it_where_nothing_changes(started_by_lilo: Path) -> None:
    hardware = choose(look(started_by_lilo))
    assert (hardware.controller, hardware.direct) == (Controller.AHCI, None)
    assert any("LILO starts the disk" in reason for reason in hardware.reasons)


def test_what_lilo_would_not_find_is_started_past_it(started_by_lilo: Path) -> None:
    guest = look(started_by_lilo)
    for request in (HardwareRequest(Controller.VIRTIO), HardwareRequest(directly=True)):
        hardware = choose(guest, request)
        assert hardware.direct is not None
        assert hardware.direct.kernel.path == f"/boot/vmlinuz-{systems.VERSION}"
        assert guest.root is not None
        assert hardware.direct.command_line.startswith(f"root=UUID={guest.root.uuid} ro quiet")
        assert any("LILO would not find" in reason for reason in hardware.reasons)


def test_of_two_systems_the_one_is_meant_that_the_menu_starts(tmp_path: Path) -> None:
    """The first partition holds another one, which is started by nothing any more."""
    parts = []
    for number, root in ((1, "/dev/sda2"), (2, "/dev/sda2")):
        tree = tmp_path / f"tree{number}"
        tree.mkdir()
        systems.linux(tree, ["ahci"], root=root)
        (tree / "etc/os-release").unlink()
        (tree / "etc/os-release").write_text(f'PRETTY_NAME="System {number}"\n')
        parts.append(tmp_path / f"root{number}.img")
        volumes.ext("ext4", size=16 * MIB)(tree, parts[-1])
    assert look(disk_of(tmp_path / "disk.img", parts)).name == "System 2"


# ------------------------------------------------------------------------------ what cannot boot


def problems(guest: Guest) -> list[tuple[str, bool]]:
    return [(problem.sentence.partition(":")[0], problem.blocks) for problem in guest.problems]


def test_a_volume_of_data_says_so(tree: Path, tmp_path: Path) -> None:
    (tree / "photo.jpg").write_bytes(b"photo")
    volumes.ext("ext4")(tree, tmp_path / "data.img")
    guest = look(disk_of(tmp_path / "disk.img", [tmp_path / "data.img"], code=b""))
    assert guest.system is System.NONE
    assert problems(guest) == [("There is no operating system on this disk", True)]


def test_an_empty_disk_says_so(tmp_path: Path) -> None:
    volumes.blank(tmp_path / "disk.img", MIB)
    assert problems(look(tmp_path / "disk.img")) == [
        ("There is nothing on this disk that could be started", True)
    ]


@pytest.mark.parametrize(
    ("magic", "sentence", "blocks"),
    [
        ((0, b"LUKS\xba\xbe\0\2"), "The disk is encrypted with LUKS, and there is nothing", True),
        ((3, b"-FVE-FS-"), "The disk", True),
    ],
)
def test_an_encrypted_disk_says_so(
    tmp_path: Path, magic: tuple[int, bytes], sentence: str, blocks: bool
) -> None:
    volume = tmp_path / "volume.img"
    volumes.blank(volume, 8 * MIB)
    with volume.open("r+b") as file:
        file.seek(magic[0])
        file.write(magic[1])
    guest = look(disk_of(tmp_path / "disk.img", [volume], code=b""))
    ((said, stops),) = [(each.sentence, each.blocks) for each in guest.problems]
    assert said.startswith(sentence)
    assert "encrypted" in said
    assert stops is blocks


def test_an_encrypted_root_with_a_boot_partition_asks_for_its_passphrase(tmp_path: Path) -> None:
    boot, secret = tmp_path / "boot", tmp_path / "secret.img"
    boot.mkdir()
    (tmp_path / "tree").mkdir()
    systems.linux(tmp_path / "tree", ["ahci", "sd_mod"], boot=boot)
    volumes.ext("ext4", size=16 * MIB)(boot, tmp_path / "boot.img")
    volumes.blank(secret, 8 * MIB)
    with secret.open("r+b") as file:
        file.write(b"LUKS\xba\xbe\0\2")
    guest = look(disk_of(tmp_path / "disk.img", [tmp_path / "boot.img", secret]))
    assert guest.kernel is not None
    assert "ahci" in guest.kernel.early
    assert problems(guest) == [("The system is encrypted with LUKS", False)]


def test_a_system_for_another_processor_says_so(tree: Path, tmp_path: Path) -> None:
    systems.linux(tree)
    (tree / "usr/bin/sh").write_bytes(systems.ELF_AARCH64)
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    guest = look(disk_of(tmp_path / "disk.img", [tmp_path / "root.img"]))
    assert problems(guest) == [
        (("The system on this disk was made for another processor (aarch64), and vdbackup starts "
         "only PCs."), True),
    ]  # fmt: skip


def test_a_hibernated_linux_says_so(tree: Path, tmp_path: Path) -> None:
    systems.linux(tree)
    swap = tmp_path / "swap.img"
    volumes.blank(swap, 8 * MIB)
    volumes.run("mkswap", swap)
    with swap.open("r+b") as file:
        file.seek(4086)
        file.write(b"S1SUSPEND\0")
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    guest = look(disk_of(tmp_path / "disk.img", [tmp_path / "root.img", swap]))
    assert problems(guest) == [("The system was hibernated when it was backed up", False)]


def test_a_damaged_partition_table_is_a_problem_and_no_error(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    volumes.blank(disk, 16 * MIB)
    volumes.partition(disk, "label: gpt\nsize=8M\n")
    with volumes.overwritten(disk, [(512, bytes(512)), (16 * MIB - 512, bytes(512))]):
        guest = look(disk)
    assert problems(guest) == [
        ("The disk's partition table (GPT) is damaged, in both of its copies.", True)
    ]


# ------------------------------------------------------------------------------------- hostile


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "tree").mkdir()
    systems.linux(folder / "tree")
    volumes.ext("ext4", "-b", "1024", size=4 * MIB)(folder / "tree", folder / "root.img")
    return disk_of(folder / "disk.img", [folder / "root.img"])


@given(
    st.lists(st.tuples(st.integers(0, 4095), st.binary(min_size=1, max_size=8)), max_size=8),
    st.randoms(use_true_random=False),
)
def test_no_damage_makes_an_inspection_fail(
    whole: Path, patches: list[tuple[int, bytes]], random: object
) -> None:
    used = [512 * sector for sector in (0, *range(2048, 2048 + 900))]
    places = [(used[at * 7 % len(used)] + at % 505, new) for at, new in patches]
    with volumes.overwritten(whole, places):
        look(whole)


def test_links_in_a_circle_lead_nowhere(tree: Path, tmp_path: Path) -> None:
    systems.linux(tree)
    (tree / "usr/lib/os-release").unlink()
    (tree / "usr/lib/os-release").symlink_to("../../etc/os-release")
    (tree / "boot" / "more").symlink_to("more")
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    guest = look(disk_of(tmp_path / "disk.img", [tmp_path / "root.img"]))
    assert guest.root is None or guest.system is System.LINUX


@given(st.text(max_size=200) | st.text("menuentry linux initrd'\"{}$\n = ", max_size=200))
def test_no_configuration_does_harm(text: str) -> None:
    menus.grub(text)
    menus.syslinux(text)
    menus.loader_entry(text, menus.environment_block(text))
    menus.preferred(text.split(), text)
    menus.limine(text)
    menus.lilo(text)
    menus.refind(text)
    menus.refind_linux(text)


@pytest.mark.timeout(60)  # half an hour if the time is squared, a fraction of a second if not
@pytest.mark.parametrize("read", [menus.grub, menus.refind, menus.refind_linux])
def test_the_time_to_read_a_line_follows_its_length(read: Callable[[str], object]) -> None:
    read("menuentry " + "a" * (4 << 20))


def test_an_image_that_lies_about_its_version_has_none(tree: Path, tmp_path: Path) -> None:
    systems.linux(tree)
    image = bytearray(systems.kernel())
    struct.pack_into("<H", image, 0x20E, 0xFFFF)
    (tree / f"boot/vmlinuz-{systems.VERSION}").write_bytes(image)
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    guest = look(disk_of(tmp_path / "disk.img", [tmp_path / "root.img"]))
    assert guest.kernel is not None
