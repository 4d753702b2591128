"""Trees of files as a Linux can hold them, and what the kernel says of one, to be compared."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
import time
from pathlib import Path
from typing import Any

from vdbackup.sources.file_sets.storages import Storages

KEPT = ("user.", "trusted.", "security.", "system.posix_acl_")
NOBODY = 0xFFFFFFFF
SEVEN_GIB = 7 << 30


def settled(folder: Path) -> None:
    """Wait until whatever is written from now on leaves another time than all that is there has.

    What has changed within a tick of the clock before it was read is not believed to be as it was
    when it is met again: its content is read, and under another name copied.
    """
    storages = Storages()
    for path in (folder, *folder.rglob("*")):
        while not storages.is_settled(path.lstat()):
            time.sleep(0.005)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as the kernel hands it over (linux/posix_acl_xattr.h): tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


def odd(folder: Path) -> None:
    """Fill a folder with what is hard to keep; only root can."""
    (folder / "plain").write_bytes(b"plain" * 1000)
    (folder / "empty").touch()
    (folder / "Größe").write_bytes(b"utf-8")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xe4\xf6 latin-1\n")).write_bytes(b"bytes")
    (folder / ("n" * 255)).write_bytes(b"long name")
    (folder / "hard").write_bytes(b"three names")
    inner = folder / "inner"
    inner.mkdir(mode=0o2755)
    os.link(folder / "hard", inner / "hard, too")
    os.link(folder / "hard", inner / "hard, once more")
    for length in (1, 59, 60, 4000):
        (folder / f"link of {length}").symlink_to("t" * length)
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener, _inside(folder):
        listener.bind("socket")
    for name, kind, device in (("chr", stat.S_IFCHR, (1, 3)), ("blk", stat.S_IFBLK, (259, 70_000))):
        os.mknod(folder / name, kind | 0o640, os.makedev(*device))
    setuid = folder / "setuid"
    setuid.write_bytes(b"#!")
    os.chown(setuid, 70_000, 123_456)
    setuid.chmod(0o4755)
    os.setxattr(setuid, "security.capability", struct.pack("<5I", 0x2000001, 1 << 10, 0, 0, 0))
    attributes = folder / "attributes"
    attributes.write_bytes(b"")
    for name, value in (("user.a", b"1"), ("user.large", b"z" * 3000), ("trusted.t", b"\0\1")):
        os.setxattr(attributes, name, value)
    os.setxattr(inner, "user.of a folder", b"")
    others = ((4, 5, NOBODY), (16, 7, NOBODY), (32, 5, NOBODY))
    for which, user in (("access", (2, 5, 1)), ("default", (2, 7, 1234))):
        os.setxattr(inner, f"system.posix_acl_{which}", acl((1, 7, NOBODY), user, *others))
    with (folder / "sparse").open("wb") as file:
        for number in range(12):
            file.seek(number * 300_000)
            file.write(b"data" * 2000)
        file.truncate(9_999_999)
    with (folder / "nothing but a hole").open("wb") as file:
        file.truncate(SEVEN_GIB)
    for year, moment in (("1950", -631_152_000_123_456_789), ("2096", 4_000_000_000_987_654_321)):
        path = folder / f"of {year}"
        path.write_bytes(b"")
        os.utime(path, ns=(moment, moment))
    deep = folder.joinpath(*["deep" * 5] * 40)
    deep.mkdir(parents=True)
    many = folder / "many"
    many.mkdir()
    for number in range(700):
        (many / f"number {number:020}").touch()


def described(folder: Path) -> tuple[dict[bytes, Any], list[list[bytes]]]:
    """All that the kernel says of each file below a folder; and which names are of one file."""
    found: dict[bytes, Any] = {}
    names: dict[tuple[int, int], list[bytes]] = {}
    root = os.fsencode(folder)
    todo = [root]
    while todo:
        path = todo.pop()
        status = os.lstat(path)
        mode, name = status.st_mode, path[len(root) :]
        content: Any = None
        if stat.S_ISDIR(mode):
            todo += [path + b"/" + each for each in os.listdir(path)]
        else:
            names.setdefault((status.st_dev, status.st_ino), []).append(name)
        if stat.S_ISREG(mode):
            content = (status.st_size, _digest(path) if status.st_size < SEVEN_GIB else "")
        elif stat.S_ISLNK(mode):
            content = os.readlink(path)
        elif stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            content = status.st_rdev
        attributes = {
            each: os.getxattr(path, each, follow_symlinks=False)
            for each in os.listxattr(path, follow_symlinks=False)
            if each.startswith(KEPT)
        }
        times = (status.st_mtime_ns, status.st_ctime_ns)
        found[name] = (mode, status.st_uid, status.st_gid, *times, content, attributes)
    return found, sorted(sorted(each) for each in names.values() if len(each) > 1)


def same(one: Path, other: Path) -> None:
    """Fail unless the kernel says the same of both; says what it does not."""
    (files, links), (others, other_links) = described(one), described(other)
    names = [name for name in files.keys() | others.keys() if files.get(name) != others.get(name)]
    assert {name: (files.get(name), others.get(name)) for name in names[:5]} == {}
    assert links == other_links


def _digest(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _inside:  # noqa: N801 - a socket's path has 108 bytes at most, so that it is said from there
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._before = os.open(".", os.O_RDONLY)
        os.chdir(self._folder)

    def __exit__(self, *_: object) -> None:
        os.fchdir(self._before)
        os.close(self._before)
