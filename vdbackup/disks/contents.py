"""What a file or device is, by its content: which disk format, some other container, or a raw disk.

A name proves nothing: cloud images are QCOW2 in `.img`. Content proves as little where the file may
be a raw disk, for its guest writes there what it likes. So what both agree on is believed; where
they are at odds whoever asks has to say it, and nothing is a raw disk only because it was not
recognised.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vdbackup.disks.formats import check_format, format_by_content
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.traces import Ending, ending, headless
from vdbackup.errors import UNREADABLE, DiskError, NotAFile, Remedy
from vdbackup.translation import tr

_LOOKED_AT = ((0, 8 << 10), (32 << 10, 4096), (64 << 10, 4096), (192 << 10, 4096))
"""Offset and bytes: ISO 9660 is told at 32 KiB, Btrfs at 64 KiB, a VHDX's tables at up to 192 KiB.

Few pieces, as each may be a read that fails, which takes a disk many seconds.
"""
_LOST = b"\xff"
"""Stands for a byte that cannot be read: no kind of content has it."""
_FOOT = 512
_RAW_NAMES = {".img", ".raw", ".dd", ".bin", ".iso", ".ima", ".image"}
_NAMES = {
    DiskFormat.VMDK: {".vmdk"},
    DiskFormat.VHD: {".vhd", ".avhd", ".vpc"},
    DiskFormat.VHDX: {".vhdx", ".avhdx"},
    DiskFormat.QCOW2: {".qcow2", ".qcow", ".qc2"},
}
"""What files in our formats are called."""
_FORMAT_OF = {suffix: name for name, suffixes in _NAMES.items() for suffix in suffixes}
_OTHER_NAMES = {
    ".vdi", ".qed", ".hdd", ".hds", ".ova", ".ovf", ".vmx", ".tar", ".gz", ".tgz", ".xz", ".txz",
    ".zip", ".bz2", ".tbz2", ".zst", ".7z", ".rar", ".lz4", ".lzma", ".lzo", ".lz", ".z", ".dmg",
    ".sparseimage", ".e01", ".ex01", ".aff", ".aff4", ".wim", ".esd", ".swm", ".gho", ".tib",
    ".tibx", ".mrimg", ".vbk", ".vma", ".chd", ".cloop", ".simg", ".nrg", ".mdf", ".cue",
    ".parallels", ".sesparse", ".vmsn", ".vmem", ".vmrs", ".partclone", ".pcl",
}  # fmt: skip
"""What other containers are called: not recognised, they are damaged or unknown, but not raw."""


@dataclass(frozen=True)
class _Sign:
    """What tells a kind of content: bytes at a place."""

    what: str
    place: int
    magic: re.Pattern[bytes]

    def fits(self, head: bytes) -> bool:
        return self.magic.match(head, self.place) is not None


def _sign(what: str, place: int, *magic: bytes) -> _Sign:
    return _Sign(what, place, re.compile(b"|".join(map(re.escape, magic))))


_CONTAINERS = (
    _sign(tr("a VirtualBox disk (VDI)"), 64, b"\x7f\x10\xda\xbe"),
    _sign(tr("a VirtualBox disk (VDI)"), 0, b"<<< "),
    _sign(tr("a disk of the first QCOW format"), 0, b"QFI\xfb\0\0\0\x01"),
    _sign(tr("a QED disk"), 0, b"QED\0"),
    _sign(tr("a Parallels disk"), 0, b"WithoutFreeSpace", b"WithouFreSpacExt"),
    _sign(tr("an extent of an ESX disk (seSparse)"), 0, b"\xbe\xba\xfe\xca\0\0\0\0"),
    _sign(tr("a Bochs disk"), 0, b"Bochs Virtual HD Image"),
    _sign(tr("a cloop image"), 0, b"#!/bin/sh\n#V2.0 Format"),
    _sign(tr("compressed with gzip"), 0, b"\x1f\x8b\x08"),
    _sign(tr("compressed with compress"), 0, b"\x1f\x9d"),
    _sign(tr("compressed with xz"), 0, b"\xfd7zXZ\0"),
    _sign(tr("compressed with bzip2"), 0, *(b"BZh%d1AY&SY" % level for level in range(1, 10))),
    _sign(tr("compressed with Zstandard"), 0, b"\x28\xb5\x2f\xfd"),
    _sign(tr("compressed with LZ4"), 0, b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18"),
    _sign(tr("compressed with lzip"), 0, b"LZIP\x01"),
    _sign(tr("compressed with lzop"), 0, b"\x89LZO\0"),
    _sign(tr("compressed with LZMA"), 0, b"\x5d\0\0\x80\0", b"\x5d\0\0\0\x01", b"\x5d\0\0\0\x04"),
    _sign(tr("a ZIP archive"), 0, b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"),
    _sign(tr("a 7-Zip archive"), 0, b"7z\xbc\xaf\x27\x1c"),
    _sign(tr("a RAR archive"), 0, b"Rar!\x1a\x07"),
    _sign(tr("a tar archive, as an OVA is"), 257, b"ustar\0", b"ustar "),
    _sign(tr("an EnCase image (EWF)"), 0, b"EVF\x09\r\n\xff\0", b"EVF2\r\n\x81\0"),
    _sign(tr("an EnCase image (EWF)"), 0, b"LVF\x09\r\n\xff\0"),
    _sign(tr("an AFF image"), 0, b"AFF10\r\n\0"),
    _sign(tr("a Windows image (WIM)"), 0, b"MSWIM\0\0\0"),
    _sign(tr("a Proxmox backup (VMA)"), 0, b"VMA\0"),
    _sign(tr("a partclone image"), 0, b"partclone-image"),
    _sign(tr("an ntfsclone image"), 0, b"\0ntfsclone-image"),
    _sign(tr("a partimage image"), 0, b"PaRtImAgE-VoLuMe"),
    _sign(tr("a FSArchiver archive"), 0, b"FsA0"),
    _sign(tr("an Android sparse image"), 0, b"\x3a\xff\x26\xed"),
    _sign(tr("a macOS sparse image"), 0, b"sprs"),
    _sign(tr("a CHD image"), 0, b"MComprHD"),
)  # fmt: skip
"""Containers that are not read. Places are bytes."""
_DMG_FOOT = b"koly\0\0\0\x04"
_BEHEADED = {
    DiskFormat.VMDK: (_sign("descriptor", 512, b"# Disk DescriptorFile"),),
    DiskFormat.VHD: (_sign(tr("dynamic disk header"), 512, b"cxsparse"),),
    DiskFormat.VHDX: (
        _sign("header", 64 << 10, b"head"),
        _sign(tr("region table"), 192 << 10, b"regi"),
    ),
    DiskFormat.QCOW2: (
        _Sign(tr("names of features"), 104, re.compile(rb"(?s:.{0,256})\x68\x03\xf8\x57\0\0")),
    ),
}
"""What our formats have behind their beginning, by which they are known when that is damaged."""

_ZEROS = _Sign("zeros", 0, re.compile(rb"\0+\Z"))
_RAW_DISKS = (
    _sign(tr("a boot sector"), 510, b"\x55\xaa"),
    _ZEROS,
    _sign("a GPT", 512, b"EFI PART"),
    _sign(tr("a GPT on sectors of 4 KiB"), 4096, b"EFI PART"),
    _sign(tr("an Apple partition map"), 512, b"PM\0\0"),
    _sign(tr("a Sun label"), 508, b"\xda\xbe"),
    _sign(tr("ext2, ext3 or ext4"), 1080, b"\x53\xef"),
    _sign("XFS", 0, b"XFSB"),
    _sign("Btrfs", 65600, b"_BHRfS_M"),
    _sign("NTFS", 3, b"NTFS    "),
    _sign("exFAT", 3, b"EXFAT   "),
    _sign("F2FS", 1024, b"\x10\x20\xf5\xf2"),
    _sign("EROFS", 1024, b"\xe2\xe1\xf5\xe0"),
    _sign("JFS", 32768, b"JFS1"),
    _sign("ReiserFS", 65588, b"ReIsEr"),
    _sign("HFS", 1024, b"H+\0", b"HX\0", b"BD"),
    _sign("APFS", 32, b"NXSB"),
    _sign("SquashFS", 0, b"hsqs"),
    _sign("cramfs", 0, b"\x45\x3d\xcd\x28"),
    _sign("romfs", 0, b"-rom1fs-"),
    _sign(tr("ISO 9660 or UDF"), 32769, b"CD001", b"BEA01", b"NSR0"),
    _sign("swap", 4086, b"SWAPSPACE2", b"SWAP-SPACE"),
    _sign("LUKS", 0, b"LUKS\xba\xbe", b"SKUL\xba\xbe"),
    *(_sign("LVM", place, b"LABELONE") for place in range(0, 2048, 512)),
    _sign("RAID", 0, b"\xfc\x4e\x2b\xa9"),
    _sign("RAID", 4096, b"\xfc\x4e\x2b\xa9"),
)
"""What a raw disk, or a volume of one, begins with."""


_PART_OF_VMDK = re.compile(r"(?P<disk>.+)-(flat|f[0-9]{3}|pt|rdmp?)\.vmdk", re.IGNORECASE)
"""Data alone; what disk they are a part of is described in another file."""
_MEND = tr("Restore it from a copy, or let the program that made it repair it")


class UnclearFormat(DiskError):
    """What a file is has to be said by whoever knows it.

    Attributes:
        choices: what it may be.
    """

    code = "format-unclear"

    def __init__(self, title: str, advice: str, choices: Sequence[DiskFormat]) -> None:
        about = tr(" or ").join(choices)
        super().__init__(title, advice, remedy=Remedy.SAY_WHAT_IT_IS, about=about)
        self.choices = tuple(choices)


@dataclass(frozen=True)
class Decision:
    """What a file is read as.

    Attributes:
        disk_format: the format.
        doubt: a sentence where its content alone says so; else "".
    """

    disk_format: DiskFormat
    doubt: str = ""


def decide(path: Path, said: str | None = None, before: str | None = None) -> Decision:
    """What the file or device is to be read as.

    Args:
        path: of the file or device.
        said: what the user says that it is: that is not questioned, only opened as such.
        before: what the user said of it once. A format still has to be what it is; that it was a
            raw disk answers the question where there is one, for the file may be another now.

    Raises:
        UnclearFormat: the user has to say, or it is a container that is not read. DiskError: it is
        neither a file nor a device. UsageError: there is no such format. OSError: it cannot be
        read.
    """
    wanted = before if said is None and before != DiskFormat.RAW else said
    if wanted is not None:
        raw = wanted == DiskFormat.RAW
        return Decision(DiskFormat.RAW if raw else check_format(wanted))
    try:
        decision = _by_name_and_content(path)
    except UnclearFormat as error:
        if before not in error.choices:
            raise
        return Decision(DiskFormat.RAW)
    return Decision(DiskFormat.RAW) if decision.doubt and before == DiskFormat.RAW else decision


def _by_name_and_content(path: Path) -> Decision:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise NotAFile(
            tr("{path} is neither a file nor a block device.", path=path),
            tr("Give a disk image or a block device."),
        )
    is_device = stat.S_ISBLK(mode)
    suffix = "" if is_device else path.suffix.lower()
    with closing(HostFile.open(path)) as file:
        head, foot = _head(file), _read(file, max(0, file.size - _FOOT), _FOOT)
        found = format_by_content(file, head, foot)
        if found is not None:  # looking for traces takes far longer than all else
            return _of_our_format(path, found, suffix, is_device=is_device)
        traces = _Traces.of(file, head, is_device=is_device)
    if (container := _container(head, foot)) is not None:
        raise _not_read(path, container)
    if traces.headless is not None:
        raise _not_whole(path, traces.headless)
    if traces.ending is Ending.FOOT:
        raise _foot_is_damaged(path)
    if is_device or suffix in _RAW_NAMES:
        return Decision(DiskFormat.RAW, _one_sector_more(path, traces.ending))
    if suffix in _FORMAT_OF or suffix in _OTHER_NAMES:
        raise _not_what_it_is_called(path, suffix)
    if (other := _other_part(path)) is not None:
        raise _only_a_part(path, other)
    if not traces.is_known:
        raise _nothing_tells(path)
    return Decision(DiskFormat.RAW, _one_sector_more(path, traces.ending))


@dataclass(frozen=True)
class _Traces:
    """What a file that is in no format which is known tells besides.

    Attributes:
        is_known: whether it begins as a raw disk.
        headless: what it goes on as, in words, though it does not begin so.
        ending: whether its last sector is the disk's.
    """

    is_known: bool
    headless: str | None = None
    ending: Ending = Ending.OF_THE_DISK

    @classmethod
    def of(cls, file: HostFile, head: bytes, *, is_device: bool) -> _Traces:
        is_known = any(sign.fits(head) for sign in _RAW_DISKS)
        try:
            end = Ending.OF_THE_DISK if is_device else ending(file, head)
            # what is whole may still have behind its first sector what once lay there
            if is_known and not _ZEROS.fits(head):
                return cls(is_known, None, end)
            if end is Ending.NOT_OF_THE_DISK:  # nothing tells of a disk that would end before
                end = Ending.OF_THE_DISK
            return cls(is_known, _beheaded(head) or headless(file), end)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            return cls(is_known)  # the medium does not give what there is to be looked at


def _head(file: HostFile) -> bytes:
    """What there is to tell a file by, each byte at its place, and zeros between."""
    head = bytearray()
    for place, length in _LOOKED_AT:
        if data := _read(file, place, length):
            head += bytes(place - len(head)) + data
    return bytes(head)


def _read(file: HostFile, place: int, length: int) -> bytes:
    """At most so many bytes; what the medium does not give is unknown, and salvaged later."""
    try:
        return file.read(place, length)
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        return _LOST * length


def _of_our_format(path: Path, found: DiskFormat, suffix: str, *, is_device: bool) -> Decision:
    if suffix in _NAMES[found]:
        return Decision(found)
    choices = (found, DiskFormat.RAW)
    if is_device:
        raise UnclearFormat(
            tr(
                "{path} holds {found}: it may be that disk that is to be backed up, or the device "
                "as it is.",
                path=path,
                found=_words(found),
            ),
            tr("Say which it is, {found} or raw.", found=found),
            choices,
        )
    if suffix in _RAW_NAMES | _OTHER_NAMES or suffix in _FORMAT_OF:
        raise UnclearFormat(
            tr(
                "{path} begins as {found} does, though its name ends in {suffix}: it is that "
                "disk, or a raw disk whose system wrote that there.",
                path=path,
                found=_words(found),
                suffix=suffix,
            ),
            tr("Say which it is, {found} or raw; or rename it to end in .{found}.", found=found),
            choices,
        )
    return Decision(
        found,
        tr(
            "{path} was taken for {found} by its content alone, which could be a raw disk's, too: "
            "say that it is {found_2}, or rename it to end in .{found_2}.",
            path=path,
            found=_words(found),
            found_2=found,
        ),
    )


def _words(disk_format: DiskFormat) -> str:
    return tr("a {disk_format} disk", disk_format=disk_format.upper())


def _container(head: bytes, foot: bytes) -> str | None:
    for sign in _CONTAINERS:
        if sign.fits(head):
            return sign.what
    return tr("a macOS disk image (DMG)") if foot.startswith(_DMG_FOOT) else None


def _beheaded(head: bytes) -> str | None:
    for name, signs in _BEHEADED.items():
        if all(sign.fits(head) for sign in signs):
            return _words(name)
    return None


def _not_read(path: Path, container: str) -> UnclearFormat:
    is_packed = container.startswith("compressed") or "archive" in container
    help_ = (
        tr("Unpack it, and back up the disk that is in it")
        if is_packed
        else tr("Let the program that made it, or qemu-img, convert it")
    )
    return UnclearFormat(
        tr("{path} is {container}, which is not read.", path=path, container=container),
        tr("{help}; if it is a raw disk that only begins so, say that it is raw.", help=help_),
        (DiskFormat.RAW,),
    )


def _not_whole(path: Path, damaged: str) -> UnclearFormat:
    return UnclearFormat(
        tr(
            "{path} goes on as {damaged} does, and does not begin as one: it is damaged.",
            path=path,
            damaged=damaged,
        ),
        tr(
            "{mend}; if it is a raw disk whose system wrote that there, say that it is raw.",
            mend=_MEND,
        ),
        (DiskFormat.RAW,),
    )


def _foot_is_damaged(path: Path) -> UnclearFormat:
    return UnclearFormat(
        tr(
            "{path} ends with a damaged footer, as a VHD does: it is no raw disk, or its system "
            "wrote that there.",
            path=path,
        ),
        tr(
            "{mend}; or say that it is raw: the footer is then backed up as the disk's last "
            "sector.",
            mend=_MEND,
        ),
        (DiskFormat.RAW,),
    )


def _one_sector_more(path: Path, end: Ending) -> str:
    if end is not Ending.NOT_OF_THE_DISK:
        return ""
    return tr(
        "{path} is one sector longer than a disk would be, as a fixed VHD is whose footer was "
        "overwritten: it is taken for a raw disk, with that sector as its last. If it is one, "
        "say that it is raw.",
        path=path,
    )


def _not_what_it_is_called(path: Path, suffix: str) -> UnclearFormat:
    described = _PART_OF_VMDK.fullmatch(path.name)
    return UnclearFormat(
        tr(
            "{path} is not what its name says, which ends in {suffix}: it is damaged, or of a "
            "kind that is not known.",
            path=path,
            suffix=suffix,
        ),
        tr("Give {disk}.vmdk, whose data it holds.", disk=described["disk"])
        if described
        else tr("{mend}; if it is a raw disk, say that it is raw.", mend=_MEND),
        (DiskFormat.RAW,),
    )


def _other_part(path: Path) -> Path | None:
    """The part beside it that a split disk goes on in, or comes from; None where there is none.

    As imaging programs name them (".001", ".002"), and split(1) (".aa", ".ab").
    """
    stem, dot, end = path.name.rpartition(".")
    if re.fullmatch(r"[0-9]{3}", end):
        beside = [f"{int(end) + 1:03}", f"{int(end) - 1:03}"]
    elif re.fullmatch(r"[a-z]{2}", end):
        beside = [end[0] + chr(ord(end[1]) + 1), end[0] + chr(ord(end[1]) - 1)]
    else:
        return None
    others = [path.with_name(f"{stem}{dot}{each}") for each in beside]
    return next((each for each in others if each.is_file()), None)


def _only_a_part(path: Path, other: Path) -> UnclearFormat:
    return UnclearFormat(
        tr(
            "{path} looks like a part of a disk that was split: {other} lies beside it.",
            path=path,
            other=other.name,
        ),
        tr(
            "Join the parts to one file, and back that up; if it is a whole disk, say that it is "
            "raw."
        ),
        (DiskFormat.RAW,),
    )


def _nothing_tells(path: Path) -> UnclearFormat:
    return UnclearFormat(
        tr(
            "Nothing in {path} tells that it is a disk: no partition table, no file system, no "
            "format that is known.",
            path=path,
        ),
        tr("If it is a raw disk, say that it is raw, or give it a name that ends in .raw."),
        (DiskFormat.RAW,),
    )
