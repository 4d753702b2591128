"""Trees of files that hurt, and what the kernel says of each entry of one."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NOBODY = 0xFFFF_FFFF
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (0x01, 6, _NOBODY), (0x02, 7, 1234), (0x04, 4, _NOBODY),
        (0x08, 4, 99), (0x10, 7, _NOBODY), (0x20, 4, _NOBODY),
    )
)  # fmt: skip
"""An access control list with a named user and a named group."""
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""security.capability of a program that may use raw sockets."""

_PAGE = 4096


@dataclass(frozen=True)
class Entry:
    """What the kernel says of a file; `also` are the first names that lead to the same file."""

    mode: int
    owner: tuple[int, int]
    size: int
    modified: int
    device: int
    links: int
    also: bytes
    attributes: tuple[tuple[str, bytes], ...]
    content: str


def hurt(top: Path, largest: int = 1 << 40, attribute: int = 0) -> None:
    """A tree of everything that a Linux file system can hold and that is easily lost; for root.

    Args:
        top: an empty folder.
        largest: bytes of a file of nothing but a hole.
        attribute: bytes of a long attribute.
    """
    (top / "folder" / "inner").mkdir(parents=True)
    (top / "file").write_bytes(b"a file\n")
    os.link(top / "file", top / "folder" / "inner" / "another name")
    (top / "link").symlink_to("folder/inner")
    (top / "long link").symlink_to("x/" * 500 + "end")
    (top / "to nowhere").symlink_to("/dev/null/\udcff")
    os.mkfifo(top / "pipe")
    os.mknod(top / "null", stat.S_IFCHR | 0o620, os.makedev(1, 3))
    os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 300))
    (top / ("n" * 255)).write_bytes(b"long")
    (top / "caf\udce9\n \\").write_bytes(b"not UTF-8")
    with (top / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(20_000_001)
        file.write(b"middle")
        file.truncate(48 << 20)
    (top / "huge").touch()
    os.truncate(top / "huge", largest)
    (top / "large").write_bytes(os.urandom(3 << 20))
    (top / "many").mkdir()
    for number in range(1500):
        (top / "many" / f"{number:05}{'x' * 30}").touch()
    os.chown(top / "file", 100_000, 4_000_000)
    os.chmod(top / "file", 0o6751)
    os.setxattr(top / "file", "security.capability", CAPABILITY)
    os.setxattr(top / "file", "user.caf\udce9", b"\0value\xff")
    os.setxattr(top / "file", "trusted.t", b"")
    os.setxattr(top / "folder", "system.posix_acl_access", ACL)
    os.setxattr(top / "folder", "system.posix_acl_default", ACL)
    os.setxattr(top / "large", "user.large", b"v" * 500)
    if attribute:
        os.setxattr(top / "large", "user.longest", b"l" * attribute)
    _go_down(top, 60)
    os.utime(top / "file", ns=(1_234_567_890_987_654_321, 1_987_654_321_123_456_789))
    os.utime(top / "pipe", ns=(0, -1_000_000_001))


def _go_down(top: Path, deep: int) -> None:
    """Folders in folders, whose whole path is longer than one that the kernel takes."""
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(deep):
        os.mkdir("d" * 200, dir_fd=descriptor)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    with open(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=descriptor), "wb") as file:
        file.write(b"deep")
    os.close(descriptor)


def entries(top: Path, xattrs: bool = True) -> dict[bytes, Entry]:
    """All of a tree by path, read through descriptors: the kernel takes no path that is so long."""
    first: dict[int, bytes] = {}
    found = {}
    for path, folder, name in _walk(os.fsencode(top)):
        here = f"/proc/self/fd/{folder}/".encode() + name
        status = os.lstat(here)
        kind = stat.S_IFMT(status.st_mode)
        is_folder = kind == stat.S_IFDIR
        names = [
            each
            for each in (os.listxattr(here, follow_symlinks=False) if xattrs else ())
            if not each.startswith("trusted.SGI_ACL_")  # what XFS keeps the lists in
        ]
        found[path] = Entry(
            status.st_mode,
            (status.st_uid, status.st_gid),
            0 if is_folder else status.st_size,
            status.st_mtime_ns,
            status.st_rdev,
            0 if is_folder else status.st_nlink,
            b"" if is_folder else first.setdefault(status.st_ino, path),
            tuple((each, os.getxattr(here, each, follow_symlinks=False)) for each in sorted(names)),
            _content(here, kind, status.st_size),
        )
    return found


def _walk(top: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    waiting = [(b"", descriptor)]
    while waiting:
        above, descriptor = waiting.pop()
        try:
            for entry in sorted(os.fsencode(each) for each in os.listdir(descriptor)):
                path = above + b"/" + entry
                if path == b"/lost+found":
                    continue
                yield path, descriptor, entry
                inside = f"/proc/self/fd/{descriptor}/".encode() + entry
                if stat.S_ISDIR(os.lstat(inside).st_mode):
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                    waiting.append((path, os.open(entry, flags, dir_fd=descriptor)))
        finally:
            os.close(descriptor)


def _content(path: bytes, kind: int, size: int) -> str:
    """A digest of a file's bytes that do not lie in holes: a huge one is nothing else."""
    if kind == stat.S_IFLNK:
        return repr(os.readlink(path))
    if kind != stat.S_IFREG:
        return ""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        at = 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # a hole up to the end
                break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            end = min(size, -(-end // _PAGE) * _PAGE)
            at = at // _PAGE * _PAGE  # holes of another tool's copy may end elsewhere
            for offset in range(at, end, 1 << 20):
                chunk = os.pread(file.fileno(), min(1 << 20, end - offset), offset)
                for start in range(0, len(chunk), _PAGE):
                    page = chunk[start : start + _PAGE]
                    if page.strip(b"\0"):
                        digest.update((offset + start).to_bytes(8, "big") + page)
            at = end
    return digest.hexdigest()
