"""A whole Debian that boots from an AHCI controller only, until it is retargeted.

Its initramfs carries no other storage driver, and fstab and the boot loader call its root
/dev/sda1 (but for LVM, whose names depend on no controller). The drivers for other hardware lie
where a Debian has them, in /lib/modules. Booted, it adds one to /var/lib/bootcount, says so on the
first serial port in a line such as `VDBACKUP-DEBIAN-OK count=1 root=/dev/sda1`, and powers off.

    BIOS   DOS table;  sda1: root                    GRUB in the gap before it
    UEFI   GPT;        sda1: root, sda2: EFI system  GRUB, or systemd-boot with the kernel beside it

Debian is installed once by mmdebstrap (one to two minutes), as root, or by an ordinary user in a
user namespace; a disk is then made in seconds, without mounts and loop devices. Both stay in the
tests' cache (tests/guests/cache.py).
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.guests import cache, lvm
from tests.guests.cache import NotBuilt, run

ALIVE = "VDBACKUP-DEBIAN-OK"
SECTOR = 512
SIZE = 768 << 20
BIOS_ROOT_START, UEFI_ROOT_START = 2048, 133_120
"""Where the root's partition begins, in sectors."""
_ESP_START, _ESP_SECTORS = 2048, 131_072
_END = SIZE // SECTOR - 2048  # a GPT has a copy at the end of the disk

_SUITE = "bookworm"
_PACKAGES = (
    "linux-image-amd64",
    *("systemd-sysv", "udev", "kmod", "mount"),
    *("initramfs-tools", "zstd", "dracut-core", "lvm2", "systemd-boot-efi"),
    "qemu-guest-agent",
)
_GRUB_PACKAGES = ("grub2-common",)
"""Of a Debian that writes its boot loader's configuration itself."""
_LAB_PACKAGES = (
    *("python3", "tzdata", "polkitd", "pkexec", "udisks2", "libpam-systemd"),
    *("thin-provisioning-tools", "cryptsetup-bin", "mdadm", "nbd-client", "nbd-server"),
)
"""Of a Debian in which vdbackup runs: what runs it, who may run it (a user has an own systemd by
libpam-systemd), what makes volumes, arrays and disks that lie on a network."""
_LEFT_OUT = ("doc", "man", "locale")
_TOOLS = ("mmdebstrap", "sfdisk", "mke2fs", "mkfs.fat", "mcopy", "grub-mkimage", "modprobe")
_GRUB = Path("/usr/lib/grub")
_SCRIPT_INIT = "/usr/local/sbin/count-boot"

_MODULES = (
    *("ahci", "ata_piix", "ata_generic", "nvme", "sd_mod", "sr_mod", "usb-storage", "uas"),
    *("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_console", "virtio_rng"),
    *("sym53c8xx", "mptspi", "mptsas", "megaraid_sas", "vmw_pvscsi", "hv_storvsc"),
    *("e1000", "e1000e", "8139cp", "vmxnet3", "af_packet"),
    *("ext4", "xfs", "btrfs", "vfat", "nls_ascii", "nls_cp437", "isofs", "fuse", "autofs4"),
    *("dm_mod", "dm_crypt", "dm_snapshot", "dm_thin_pool", "dm_log_writes"),
    *("xts", "aes_generic", "algif_skcipher"),
    *("crc32c_generic", "crc32c_intel", "loop", "efivarfs", "binfmt_misc"),
    *("xhci_pci", "ehci_pci", "uhci_hcd", "usbhid", "hid_generic", "atkbd", "psmouse", "evdev"),
    *("bochs", "pvpanic_pci", "pvpanic_mmio", "configfs", "qemu_fw_cfg", "button"),
)
"""What is kept of the kernel's three thousand modules, with what these need."""
_LAB_MODULES = ("raid0", "raid1", "nbd")
"""Of a Debian in which vdbackup runs."""

# As `/etc/initramfs-tools/modules` and dracut's configuration would have it on a machine whose
# disks hang on AHCI. The file systems are in both: a disk of the tests chooses one of them.
_EARLY = "ahci sd_mod ext4 xfs btrfs dm_mod crc32c_generic"

_CUSTOMIZE = rf"""
set -eu
root=$1
version=$(basename "$root"/lib/modules/*)
modules=$root/lib/modules/$version
for module in {" ".join(_MODULES)}; do
    modprobe -d "$root" -S "$version" --show-depends "$module" || echo "not of this kernel"
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u > "$root/kept"
find "$modules/kernel" -name '*.ko*' | sort | comm -23 - "$root/kept" | xargs rm
rm "$root/kept"
find "$modules/kernel" -type d -empty -delete
depmod -b "$root" "$version"

sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
printf '%s\n' ahci sd_mod > "$root/etc/initramfs-tools/modules"
printf '#!/bin/sh\n. /usr/share/initramfs-tools/hook-functions\nmanual_add_modules {_EARLY}\n' \
    > "$root/etc/initramfs-tools/hooks/early"
chmod +x "$root/etc/initramfs-tools/hooks/early"
chroot "$root" update-initramfs -c -k "$version"
mv "$root/boot/initrd.img-$version" "$root/initramfs-tools"
chroot "$root" dracut --quiet --force --no-hostonly --zstd --omit "systemd-networkd network" \
    --drivers "{_EARLY}" --filesystems "ext4 xfs btrfs" /dracut "$version"

rm -f "$root/vmlinuz" "$root"/vmlinuz.old "$root/initrd.img" "$root"/initrd.img.old
rm -rf "$root"/usr/share/perl "$root"/usr/lib/*/perl "$root"/usr/lib/*/gconv
chroot "$root" passwd -d root
echo debian > "$root/etc/hostname"
echo 0 > "$root/var/lib/bootcount"
cat > "$root{_SCRIPT_INIT}" <<'SCRIPT'
#!/bin/sh
# Counts this boot. As the kernel's init it brings up what that takes, and then powers off.
[ $$ = 1 ] && mount -t proc proc /proc && mount -o remount,rw / &&
    cat /etc/hostname > /proc/sys/kernel/hostname
count=$(($(cat /var/lib/bootcount) + 1))
echo $count > /var/lib/bootcount
sync
echo "{ALIVE} count=$count root=$(findmnt -no SOURCE /)" > /dev/ttyS0
[ $$ = 1 ] || exit 0
mount -o remount,ro /
grep -q vdbackup.stay /proc/cmdline && exec agetty --keep-baud 115200 ttyS0 vt100
exec poweroff -f -f
SCRIPT
chmod +x "$root{_SCRIPT_INIT}"
cat > "$root/etc/systemd/system/count-boot.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart={_SCRIPT_INIT}
ExecStart=/bin/sh -c 'grep -q vdbackup.stay /proc/cmdline || systemctl poweroff --no-block'
[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl enable count-boot.service
"""

_GRUB_CFG = """\
serial --unit=0 --speed=115200
terminal_output console serial
set timeout=0
menuentry debian {{
  search --no-floppy --fs-uuid --set=root {uuid}
  linux /boot/vmlinuz-{version} {arguments}
  initrd /boot/initrd.img-{version}
}}
"""
_GRUB_EARLY = "search --no-floppy --fs-uuid --set=root {uuid}\nset prefix=($root)/boot/grub\n"
_GRUB_MODULES = (
    *("part_gpt", "part_msdos", "lvm", "ext2", "xfs", "btrfs", "fat"),
    *("search", "search_fs_uuid", "normal", "linux", "serial", "terminal", "configfile", "echo"),
)
_LOADER_ENTRY = """\
title   Debian GNU/Linux 12
version {version}
linux   /debian/{version}/linux
initrd  /debian/{version}/initrd.img-{version}
options {arguments}
"""


class KernelNotServed(NotBuilt):
    """The archive has no such kernel: old ones go, and newer ones are named anew."""


@dataclass(frozen=True)
class Debian:
    """Which one.

    Attributes:
        root: its root's file system: ext4, xfs or btrfs.
        lvm: whether that is a logical volume, debian/root.
        initramfs: what made it: initramfs-tools or dracut.
        boot: grub-bios, grub-uefi or systemd-boot.
        init: "systemd", or "script": a real kernel, initramfs and boot loader, and after them
            nothing but what counts the boot, which takes a third of the time.
        stay: offer a login on the first serial port instead of powering off.
        grub_tools: whether the Debian has GRUB's own programs, and what they go by; no test needs
            them but those of programs that work in the Debian itself.
        lab: whether vdbackup can be run in it (tests/guests/lab.py).
        kernel: the suite that its kernel comes from; "" for its own.
    """

    root: str = "ext4"
    lvm: bool = False
    initramfs: str = "initramfs-tools"
    boot: str = "grub-bios"
    init: str = "script"
    stay: bool = False
    grub_tools: bool = False
    lab: bool = False
    kernel: str = ""

    @property
    def name(self) -> str:
        """All of that in a word."""
        words = [self.root, "lvm" * self.lvm, self.initramfs, self.boot, self.init]
        words += ["stay" * self.stay, "tools" * self.grub_tools, "lab" * self.lab]
        return "-".join(filter(None, words))

    @property
    def packages(self) -> tuple[str, ...]:
        """What is installed besides the essential."""
        first, *others = _PACKAGES
        packages = (f"{first}/{self.kernel}" if self.kernel else first, *others)
        packages += _GRUB_PACKAGES if self.grub_tools else ()
        return packages + (_LAB_PACKAGES if self.lab else ())

    @property
    def customize(self) -> str:
        """What is done to it once it is installed, in the shell."""
        modules = " ".join(_MODULES)
        more = " ".join((modules, *_LAB_MODULES)) if self.lab else modules
        return _CUSTOMIZE.replace(modules, more)

    @property
    def root_start(self) -> int:
        """Where the partition of the root begins, in sectors."""
        return BIOS_ROOT_START if self.boot == "grub-bios" else UEFI_ROOT_START

    @property
    def device(self) -> str:
        """What fstab and the boot loader call the root."""
        return "/dev/mapper/debian-root" if self.lvm else "/dev/sda1"

    @property
    def arguments(self) -> str:
        """The kernel's command line."""
        # no_timer_check: a busy computer translates too slowly for what Linux wants of a timer
        words = [f"root={self.device} ro console=tty0 console=ttyS0 panic=5 no_timer_check"]
        words += [f"init={_SCRIPT_INIT}"] * (self.init == "script")
        words += ["vdbackup.stay"] * self.stay
        return " ".join(words)


def image(debian: Debian = Debian()) -> Path:
    """The raw image of a Debian, built if it is not in the cache. Copy it before you change it."""
    _check_tools()
    system = _place(debian)
    code = cache.recipe(Path(__file__).read_bytes(), Path(lvm.__file__).read_bytes())
    folder = cache.folder() / f"{system.name}-disks-{code}"
    built = folder / f"{debian.name}.img"
    if built.exists():  # whoever builds another one, for many minutes, is not waited for
        return built
    with cache.locked("debian"):
        if not built.exists():
            _install(debian, system)
            folder.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                disk = _disk(debian, system, Path(work))
                disk.chmod(0o444)
                disk.replace(built)
    return built


def set_boot_count(disk: Path, count: int, debian: Debian = Debian()) -> None:
    """Write `count` where the Debian on `disk`, a raw image with ext4 not on LVM, counts boots."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"{count}\n")
        file.flush()
        commands = f"cd /var/lib\nrm bootcount\nwrite {file.name} bootcount\n"
        run(
            "debugfs", "-w", "-f", "-", f"{disk}?offset={debian.root_start * SECTOR}", text=commands
        )


def _check_tools() -> None:
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=cache.path()) is None]
    missing += [
        str(_GRUB / kind) for kind in ("i386-pc", "x86_64-efi") if not (_GRUB / kind).exists()
    ]
    if missing:
        raise NotBuilt(f"The test guest needs {', '.join(missing)}: see packaging/test.")


# ---------------------------------------------------------------------------------- the system


def _place(debian: Debian) -> Path:
    """The folder of the installed Debian; what differs between disks is not in it yet."""
    code = cache.recipe(debian.customize.encode(), " ".join([_SUITE, *debian.packages]).encode())
    return cache.folder() / f"debian-{code}"


def _install(debian: Debian, system: Path) -> None:
    """Make that, if it is not there."""
    if not system.exists():
        with tempfile.TemporaryDirectory(dir=cache.folder()) as work:
            archive, tree = Path(work, "system.tar"), Path(work, "tree")
            run(
                "mmdebstrap",
                "--variant=essential",
                f"--include={','.join(debian.packages)}",
                *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT),
                f"--customize-hook={debian.customize}",
                _SUITE,
                archive,
                *(_sources(debian.kernel) if debian.kernel else ()),
                environment={"INITRD": "No"},  # not while it is installed: once, at the end
            )
            tree.mkdir()
            owners = () if os.getuid() == 0 else ("--no-same-owner",)
            run("tar", "-xf", archive, "-C", tree, "--exclude=./dev/*", *owners)
            tree.rename(system)


def _sources(other: str) -> list[str]:
    """This Debian's suite and another one, from where this machine has its own packages.

    Raises KernelNotServed where the archive has no kernel of that one (any more).
    """
    listing = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)")
    uris = [line.split()[0] for line in listing.splitlines() if line.split()[1:] == [_SUITE]]
    if not uris:
        raise NotBuilt(f"The test guest's other kernels need {_SUITE} among apt's sources.")
    sources = [f"deb {uris[0]} {suite} main" for suite in (_SUITE, other)]
    served = _suites_with(_PACKAGES[0], sources)
    if _SUITE not in served:
        raise NotBuilt(f"{uris[0]} does not answer: it has no {_PACKAGES[0]} of {_SUITE}.")
    if other not in served:
        raise KernelNotServed(f"{uris[0]} does not serve {_PACKAGES[0]} of {other}.")
    return sources


def _suites_with(package: str, sources: list[str]) -> set[str]:
    """The suites of which an archive serves a package, as it says now."""
    with tempfile.TemporaryDirectory() as work:
        listing, lists = Path(work, "sources.list"), Path(work, "lists")
        listing.write_text("\n".join(sources) + "\n")
        lists.mkdir()
        options = [f"Dir::Etc::SourceList={listing}", "Dir::Etc::SourceParts=-"]
        options += [f"Dir::State::Lists={lists}", f"Dir::Cache={work}", "APT::Sandbox::User=root"]
        apt = [f"-o{each}" for each in options]
        # it fails where one suite is missing; what it has of the others counts
        command = ["apt-get", *apt, "update"]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        found = run("apt-cache", *apt, "madison", package)
    return {line.split("|")[2].split()[1].partition("/")[0] for line in found.splitlines()}


# ------------------------------------------------------------------------------------ the disk


def _disk(debian: Debian, system: Path, work: Path) -> Path:
    """Put the disk together in `work`."""
    disk = _sparse(work / "disk", SIZE)
    version = next((system / "lib" / "modules").iterdir()).name
    identity = str(uuid.uuid4())
    names = {"uuid": identity, "version": version, "arguments": debian.arguments}
    tree = _tree(debian, system, work / "tree", names)
    size = (_END - debian.root_start) * SECTOR
    offset = debian.root_start * SECTOR
    if debian.lvm:
        _put(disk, offset, lvm.head(size, "debian", "root"))
        offset, size = offset + lvm.DATA_OFFSET, lvm.volume_size(size)
    volume = _sparse(work / "volume", size)
    _MAKERS[debian.root](volume, tree, identity)
    _copy(volume, disk, offset)
    if debian.boot == "grub-bios":
        _bios(disk, debian, work, names)
    else:
        _uefi(disk, debian, work, names, tree)
    return disk


def _tree(debian: Debian, system: Path, tree: Path, names: dict[str, str]) -> Path:
    """The content of the root: the system's own files, linked, and those of this Debian."""
    run("cp", "-al", system, tree)
    (tree / debian.initramfs).rename(tree / "boot" / f"initrd.img-{names['version']}")
    for other in {"initramfs-tools", "dracut"} - {debian.initramfs}:
        (tree / other).unlink()
    fstab = f"{debian.device} / {debian.root} defaults 0 1\n"
    if debian.boot != "grub-bios":
        fstab += "/dev/sda2 /boot/efi vfat umask=0077,nofail 0 0\n"
        (tree / "boot" / "efi").mkdir()
    _replace(tree / "etc" / "fstab", fstab)
    if debian.boot != "systemd-boot":
        (tree / "boot" / "grub").mkdir()
        _replace(tree / "boot" / "grub" / "grub.cfg", _GRUB_CFG.format(**names))
    if debian.grub_tools:
        words = debian.arguments.partition(" ro ")[2]
        defaults = f'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX="{words}"\n'
        _replace(tree / "etc" / "default" / "grub", defaults)
    return tree


def _replace(path: Path, text: str) -> None:
    """Write a file of its own where a link may be."""
    path.unlink(missing_ok=True)
    path.write_text(text)


def _as_root() -> tuple[str, ...]:
    """Files of an ordinary user, the installed system's too, look like root's to what follows."""
    return () if os.getuid() == 0 else ("unshare", "--map-root-user")


def _ext4(volume: Path, tree: Path, identity: str) -> None:
    features = "^metadata_csum_seed,^orphan_file"  # newer than this Debian's GRUB
    run(
        *_as_root(),
        *("mke2fs", "-q", "-t", "ext4", "-U", identity, "-O", features),
        "-d",
        tree,
        volume,
    )


def _xfs(volume: Path, tree: Path, identity: str) -> None:
    listing = volume.with_name("prototype")
    listing.write_text("\n".join(["/none", "0 0", *_prototype(tree)]) + "\n")
    run("mkfs.xfs", "-q", "-m", f"uuid={identity}", "-p", listing, volume)


def _btrfs(volume: Path, tree: Path, identity: str) -> None:
    run(*_as_root(), *("mkfs.btrfs", "-q", "-U", identity), "--rootdir", tree, volume)


_MAKERS = {"ext4": _ext4, "xfs": _xfs, "btrfs": _btrfs}


def _prototype(folder: Path) -> Iterator[str]:
    """A folder in the words of mkfs.xfs(8), all of it root's."""
    yield f"d--{folder.stat().st_mode & 0o777:03o} 0 0"
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        flags = ("u" if mode & stat.S_ISUID else "-") + ("g" if mode & stat.S_ISGID else "-")
        permissions = f"{flags}{mode & 0o777:03o} 0 0"
        if path.is_symlink():
            yield f"{path.name} l--777 0 0 {path.readlink()}"
        elif path.is_dir():
            lines = _prototype(path)
            yield f"{path.name} {next(lines)}"
            yield from lines
        else:
            yield f"{path.name} -{permissions} {path}"
    yield "$"


def _bios(disk: Path, debian: Debian, work: Path, names: dict[str, str]) -> None:
    kind = "8e" if debian.lvm else "83"
    start = debian.root_start
    table = f"label: dos\nstart={start}, size={_END - start}, type={kind}, bootable\n"
    run("sfdisk", "-q", disk, text=table)
    core = _grub(work, names, "i386-pc", "biosdisk")
    _put(disk, 0, (_GRUB / "i386-pc" / "boot.img").read_bytes()[:440])
    _put(disk, SECTOR, core.read_bytes())


def _uefi(disk: Path, debian: Debian, work: Path, names: dict[str, str], tree: Path) -> None:
    start = debian.root_start
    table = f"label: gpt\nstart={start}, size={_END - start}, type=L\n"
    table += f"start={_ESP_START}, size={_ESP_SECTORS}, type=U\n"
    run("sfdisk", "-q", disk, text=table)
    content = work / "esp"
    loader = content / "EFI" / "BOOT" / "BOOTX64.EFI"
    loader.parent.mkdir(parents=True)
    if debian.boot == "grub-uefi":
        _grub(work, names, "x86_64-efi", "efi_gop").rename(loader)
    else:
        shutil.copy(
            tree / "usr" / "lib" / "systemd" / "boot" / "efi" / "systemd-bootx64.efi", loader
        )
        version = names["version"]
        kernels = content / "debian" / version
        kernels.mkdir(parents=True)
        shutil.copy(tree / "boot" / f"vmlinuz-{version}", kernels / "linux")
        shutil.copy(tree / "boot" / f"initrd.img-{version}", kernels)
        entries = content / "loader" / "entries"
        entries.mkdir(parents=True)
        (entries / f"debian-{version}.conf").write_text(_LOADER_ENTRY.format(**names))
        (content / "loader" / "loader.conf").write_text("timeout 0\n")
    volume = _sparse(work / "efi", _ESP_SECTORS * SECTOR)
    run("mkfs.fat", "-F", "32", "-h", str(_ESP_START), "-n", "EFI", volume)
    run("mcopy", "-s", "-i", volume, *sorted(content.iterdir()), "::")
    _copy(volume, disk, _ESP_START * SECTOR)


def _grub(work: Path, names: dict[str, str], platform: str, *modules: str) -> Path:
    early, image = work / "early.cfg", work / "grub"
    early.write_text(_GRUB_EARLY.format(**names))
    options = ("-O", platform, "-o", str(image), "-c", str(early), "-p", "/boot/grub")
    run("grub-mkimage", *options, *modules, *_GRUB_MODULES)
    return image


def _sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def _put(disk: Path, offset: int, data: bytes) -> None:
    with disk.open("rb+") as file:
        file.seek(offset)
        file.write(data)


def _copy(volume: Path, disk: Path, offset: int) -> None:
    """Put a volume onto the disk, holes as holes."""
    options = ("bs=1M", f"seek={offset}", "oflag=seek_bytes", "conv=notrunc,sparse", "status=none")
    run("dd", f"if={volume}", f"of={disk}", *options)
