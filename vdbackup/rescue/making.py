"""Make a rescue medium: an image for CDs and USB sticks, for BIOS and UEFI.

    program.tar          the program, its libraries, the medium's settings   (program.py)
    filesystem.squashfs  Debian as mmdebstrap installs it, with these, packed as it comes
    OUT.iso              that, the kernel and its initramfs, GRUB            (grub-mkrescue)

Debian's live-boot finds the squashfs on whatever it was started from, and puts memory above it.
With Secure Boot a firmware starts what it knows the signature of: Microsoft's on Debian's shim,
which knows Debian's on GRUB and kernel. So UEFI gets those as Debian signed them, and no GRUB that
was put together here.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vdbackup import durable
from vdbackup.errors import (
    NoSpace,
    ProgramMissing,
    Remedy,
    RescueMediumFailed,
    TargetExists,
    UnfitTarget,
)
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.rescue import program, running
from vdbackup.rescue.contents import Contents, contents, resource
from vdbackup.sources.devices import is_among_devices
from vdbackup.translation import tr

_NEEDED = {
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "grub-mkrescue": "grub-common",
    "xorriso": "xorriso",
    "mformat": "mtools",
}
"""Programs, and the Debian packages that bring them."""
_PLATFORMS = {"i386-pc": "grub-pc-bin"}
"""GRUB's parts for BIOS, and their package."""
_GRUB = Path("/usr/lib/grub")
_EFI = PurePosixPath("EFI/BOOT")
"""Where a firmware looks for what to start on a medium."""
_SIGNED = {
    "/usr/lib/shim/shimx64.efi.signed": "BOOTX64.EFI",
    "/usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed": "grubx64.efi",
}
"""What Debian has signed, in the medium's Debian, and the name by which the one before looks for it
(packages shim-signed, grub-efi-amd64-signed)."""
_VOLUME = "VDRESCUE"
"""By which it is found again (resources/rescue/efi.cfg)."""
_LEFT_OUT = (
    *(f"/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")),
    *(f"/lib/modules/*/kernel/{name}/*" for name in ("sound", "drivers/media")),
    *(f"/usr/lib/modules/*/kernel/{name}/*" for name in ("sound", "drivers/media")),
)
_LEFT_OUT_OF_TEXT = ("/lib/modules/*/kernel/drivers/gpu/*",)
_MIB = 1 << 20


@dataclass(frozen=True)
class Expected:
    """Figures of a medium, as measured with Debian 12.

    Attributes:
        image: bytes of the image.
        download: bytes of the packages.
        work: bytes that lie in the folder for temporary files meanwhile.
        minutes: how long it takes, about, on a computer with two processors.
    """

    image: int
    download: int
    work: int
    minutes: int


_TEXT = Expected(image=360 * _MIB, download=240 * _MIB, work=1800 * _MIB, minutes=6)
_WINDOW = Expected(image=540 * _MIB, download=330 * _MIB, work=2800 * _MIB, minutes=9)


@dataclass(frozen=True, kw_only=True)
class RescuePlan(Plan):
    """What making a medium would do.

    Attributes:
        target: the image.
        contents: what it is made of.
        files: the program's, by their places on the medium.
        overwrite: replace what is there.
    """

    target: Path
    contents: Contents
    files: program.Files
    overwrite: bool = False


@dataclass(frozen=True)
class RescueMedium:
    """What was made.

    Attributes:
        image: the file.
        size: its bytes.
    """

    image: Path
    size: int


def plan(target: Path, *, window: bool = True, overwrite: bool = False) -> RescuePlan:
    """What making a medium would do; what is missing here stands in its `hindrance`.

    Args:
        target: a new file.
        window: with the restore window; else it asks in text alone, and is smaller.
        overwrite: replace an existing file.

    Raises:
        RescueMediumFailed: this installation fits no medium.
        TargetExists, UnfitTarget: nothing can be written there. NoSpace: not enough of it.
    """
    _check_target(target, overwrite)
    expected = _WINDOW if window else _TEXT
    made_of = contents(window=window)
    files = program.collect(window=window)
    _check_space(target.parent, expected.image, tr("The image"))
    _check_space(_temporary(), expected.work, tr("Making it"))
    kind = tr("with the restore window") if window else tr("that asks in text")
    return RescuePlan(
        summary=tr(
            "A rescue medium {kind} is made as {target}: Debian {suite}, {count} of its packages "
            "with what they need, and vdbackup as it is installed here ({size}). The image will "
            "have about {size_2}. Some {size_3} are downloaded from Debian, {size_4} lie in "
            "{temporary} meanwhile, and it takes about {minutes} minutes.",
            kind=kind,
            target=target,
            suite=made_of.suite,
            count=len(made_of.packages),
            size=readable_size(program.size_of(files)),
            size_2=readable_size(expected.image),
            size_3=readable_size(expected.download),
            size_4=readable_size(expected.work),
            temporary=_temporary(),
            minutes=expected.minutes,
        ),
        creates=() if target.exists() else (str(target),),
        replaces=(str(target),) if target.exists() else (),
        hindrance=_hindrance(),
        target=target,
        contents=made_of,
        files=files,
        overwrite=overwrite,
    )


def run(plan: RescuePlan, task: Task) -> RescueMedium:
    """Make it, beside its name, which it gets when it is whole and durable.

    Raises:
        ProgramMissing: a program is missing. RescueMediumFailed: one failed. Cancelled.
    """
    if missing := _missing_programs():
        raise ProgramMissing(*missing)
    if refused := _unprivileged_hindrance():
        raise RescueMediumFailed(*refused)

    with durable.made_beside(plan.target) as image, _work_folder() as work:
        program.pack(plan.files, work / "program.tar", task)
        task.phase(tr("Install Debian, and pack it"))
        _pack_debian(plan.contents, work, task)
        task.phase(tr("Write the image"))
        write_image(work / "medium", image, task)
        durable.sync_file(image)  # before it gets its name
        _check_target(plan.target, plan.overwrite)  # which another file may have by now
    return RescueMedium(plan.target, plan.target.stat().st_size)


def _pack_debian(made_of: Contents, work: Path, task: Task) -> None:
    """Debian as a squashfs, its kernel and initramfs beside it, as the medium has them."""
    live = work / "medium" / "live"
    live.mkdir(parents=True)
    (work / "medium" / _EFI).mkdir(parents=True)
    place = shlex.quote(str(work))
    prepare = f'chroot "$1" sh /{program.PREPARE} && rm "$1/{program.PREPARE}"'
    left_out = _LEFT_OUT + (() if made_of.window else _LEFT_OUT_OF_TEXT)
    installing = [
        "mmdebstrap",
        f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        *("--variant=minbase", "--format=tar", "--components=main,non-free-firmware"),
        '--aptopt=Apt::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={each}" for each in left_out),
        f"--include={','.join(made_of.packages)}",
        f"--customize-hook=tar-in {place}/program.tar /",
        f"--customize-hook={prepare}",
        f"--customize-hook=download /vmlinuz {place}/medium/live/vmlinuz",
        f"--customize-hook=download /initrd.img {place}/medium/live/initrd.img",
        *(
            f"--customize-hook=download {signed} {place}/medium/{_EFI}/{name}"
            for signed, name in _SIGNED.items()
        ),
        made_of.suite,
        "-",
    ]
    running.run(
        [installing, squashing(live / "filesystem.squashfs")],
        task,
        work,
        {"TMPDIR": str(work)},
    )


def squashing(squashfs: Path) -> list[str]:
    """What packs a tar archive, read from standard input, as the medium's root.

    The Debian's kernel and initramfs lie beside it already, and programs in memory have no use for
    extended attributes.
    """
    options = ["-comp", "zstd", "-Xcompression-level", "12", "-no-xattrs", "-no-progress", "-quiet"]
    left_out = ["-wildcards", "-e", "dev/*", "boot/*"]
    # not sqfstar, which takes a compression's own option for a file's name (squashfs-tools 4.5.1)
    return ["mksquashfs", "-", str(squashfs), "-tar", *options, *left_out]


def write_image(medium: Path, image: Path, task: Task) -> None:
    """Write the image of a folder that holds live/ and EFI/, with GRUB for BIOS beside it.

    It starts from a CD, and from a stick or disk that it is copied to as it is. The partition that
    a firmware with UEFI reads lies behind the ISO's files, which are then found by its name.
    """
    grub, work = medium / "boot" / "grub", medium.parent
    grub.mkdir(parents=True)
    shutil.copyfile(resource("grub.cfg"), grub / "grub.cfg")
    environment = {"TMPDIR": str(work), "MTOOLS_SKIP_CHECK": "1"}
    esp = work / "efi.img"
    for command in _making_esp(esp, medium):
        running.run([command], task, work, environment)
    from_cd = "efi_path=--interval:appended_partition_2:all::"
    command = [
        *("grub-mkrescue", "-d", str(_GRUB / "i386-pc"), "-o", str(image), str(medium)),
        *("--", "-volid", _VOLUME, "-append_partition", "2", "0xef", str(esp)),
        *("-boot_image", "any", "appended_part_as=gpt"),
        *("-boot_image", "any", "next", "-boot_image", "any", from_cd),
    ]
    running.run([command], task, work, environment)
    esp.unlink()


def _making_esp(esp: Path, medium: Path) -> list[list[str]]:
    """The programs that make what a firmware with UEFI starts: a FAT with EFI/."""
    size = sum(each.stat().st_size for each in (medium / _EFI).iterdir())
    sectors = (size // _MIB + 4) * _MIB // 512
    at = ["-i", str(esp)]
    return [
        ["mformat", *at, "-C", "-T", str(sectors), "-h", "64", "-s", "32", "::"],
        ["mcopy", *at, "-s", str(medium / _EFI.parts[0]), "::"],
        ["mmd", *at, "::/boot", "::/boot/grub"],
        ["mcopy", *at, str(resource("efi.cfg")), "::/boot/grub/grub.cfg"],
    ]


@contextmanager
def _work_folder() -> Iterator[Path]:
    """A folder for what lies about meanwhile; mmdebstrap's other users have to pass through it."""
    with tempfile.TemporaryDirectory(prefix="vdbackup-rescue-", dir=_temporary()) as name:
        os.chmod(name, 0o711)  # noqa: S103 - nobody else can list it
        yield Path(name)


def _temporary() -> Path:
    """Where temporary files lie that are too large for memory, which /tmp may be."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108


# ------------------------------------------------------------------------------ what is in the way


def _check_target(target: Path, overwrite: bool) -> None:
    if target.is_block_device():
        raise UnfitTarget(
            tr("{target} is a device.", target=target),
            tr("Make a file, and copy that to the device as it is (cp, dd)."),
        )
    if target.is_dir():
        raise UnfitTarget(
            tr("{target} is a folder.", target=target), tr("Give the name of a new file in it.")
        )
    if not target.parent.is_dir():
        raise UnfitTarget(
            tr("There is no folder {parent}.", parent=target.parent), tr("Make it first.")
        )
    if is_among_devices(target):
        raise UnfitTarget(
            tr("There is no device {target}.", target=target),
            tr("Make a file, and copy that to the device as it is (cp, dd)."),
        )
    if os.path.lexists(target) and not target.is_file():
        raise UnfitTarget(
            tr("{target} is no file.", target=target), tr("Give the name of a new file.")
        )
    if os.path.lexists(target) and not overwrite:
        raise TargetExists(
            tr("{target} exists already.", target=target),
            tr("Give another name."),
            remedy=Remedy.OVERWRITE,
        )


def _check_space(folder: Path, needed: int, what: str) -> None:
    free = durable.free_space(folder)
    if free is not None and free < needed:
        raise NoSpace(
            tr(
                "{what} needs about {size}, and {folder} has {size_2} free.",
                what=what,
                size=readable_size(needed),
                folder=folder,
                size_2=readable_size(free),
            ),
            tr("Free some space there, or name another folder (TMPDIR for temporary files)."),
        )


def _hindrance() -> str:
    """Why it cannot be done as things stand; "" where nothing is known."""
    refused = _missing_programs() or _unprivileged_hindrance()
    return " ".join(refused) if refused else ""


def _missing_programs() -> tuple[str, str] | None:
    """What is missing, and what to do."""
    missing = {name: each for name, each in _NEEDED.items() if shutil.which(name) is None}
    missing |= {
        tr("GRUB for {name}", name=name): each
        for name, each in _PLATFORMS.items()
        if not (_GRUB / name).is_dir()
    }
    if not missing:
        return None
    are = tr("is") if len(missing) == 1 else tr("are")
    return (
        tr(
            "{missing} {are} not installed, which a rescue medium is made with.",
            missing=", ".join(missing),
            are=are,
        ),
        tr("Install {values}.", values=" ".join(dict.fromkeys(missing.values()))),
    )


def _unprivileged_hindrance() -> tuple[str, str] | None:
    """Why this user may not install a Debian into a folder, as root may."""
    if os.geteuid() == 0:
        return None
    if shutil.which("newuidmap") is None or not _has_other_ids():
        return (
            tr("An ordinary user needs numbers of other users to install a Debian in a folder."),
            tr(
                "Do it as root; or install uidmap, and have numbers in /etc/subuid and /etc/subgid."
            ),
        )
    return None


def _has_other_ids() -> bool:
    """Whether this user has numbers of users to give away (subuid(5))."""
    names = {str(os.getuid()), pwd.getpwuid(os.getuid()).pw_name}
    try:
        lines = Path("/etc/subuid").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.partition(":")[0] in names for line in lines)
