"""Paths that can be asked about without waiting for a server.

A share whose server is gone lets stat(2) wait for ever, and what other programs name may lie on any
share. So a path is followed by its parts: each is asked for only where a file system of this
computer's own lies, or one that answers anyway, because what we work on lies there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vdbackup.repository.mount_points import unescaped

_MOUNTS = Path("/proc/self/mountinfo")
_WITHOUT_DEVICE = {"tmpfs", "ramfs", "rootfs", "overlay", "zfs", "bcachefs"}
"""File systems of this computer that name no device in /dev as theirs."""
_MAX_LINKS = 40
"""As many links as Linux follows in a path (path_resolution(7))."""
_MAX_PATH = 4096
"""Letters of a path, as many as Linux takes bytes; whoever means harm names longer ones."""


@dataclass(frozen=True)
class _Mount:
    """A line of /proc/self/mountinfo (proc(5)): where, of which device, and what it is."""

    point: str
    device: str
    is_own: bool

    @classmethod
    def parse(cls, line: bytes) -> Self:
        facts, _, what = line.partition(b" - ")
        _, _, device, _, point, *_ = facts.split(b" ")
        kind, source, *_ = os.fsdecode(what).split(" ")
        own = kind in _WITHOUT_DEVICE or (source.startswith("/dev/") and "fuse." not in kind)
        return cls(unescaped(point), device.decode(), own)


class NearPaths:
    """Which paths can be asked about: a picture of what is mounted at one moment.

    Args:
        beside: folders that answer: what lies on the same file system does, too.
    """

    def __init__(self, beside: Iterable[Path]) -> None:
        self._mounts = {
            mount.point: mount for mount in map(_Mount.parse, _MOUNTS.read_bytes().splitlines())
        }  # of several on one point the last is what one sees
        of = (self._mount_of(os.path.realpath(folder)) for folder in beside)
        self._near = {mount.device for mount in of if mount}

    def followed(self, path: Path) -> Path | None:
        """The path without its links; None where they lead to what may not answer.

        What is not there is no error.
        """
        from_here = "" if path.is_absolute() else os.getcwd()  # which may be gone
        whole = os.path.join(from_here, path)
        if len(whole) > _MAX_PATH:
            return None
        done, under, links = "/", self._mounts.get("/"), 0
        ahead = whole.split("/")[::-1]
        while ahead:
            part = ahead.pop()
            if part in ("", ".", ".."):
                done = os.path.dirname(done) if part == ".." else done
                under = self._mount_of(done) if part == ".." else under
                continue
            here = os.path.join(done, part)
            mount = self._mounts.get(here, under)
            if mount is None or not (mount.is_own or mount.device in self._near):
                return None
            try:
                target = os.readlink(here)
            except (OSError, ValueError):  # no link, or not there
                done, under = here, mount
                continue
            links += 1
            if links > _MAX_LINKS:
                return None
            if target.startswith("/"):
                done, under = "/", self._mounts.get("/")
            ahead += target.split("/")[::-1]
        return Path(done)

    def _mount_of(self, path: str) -> _Mount | None:
        while path not in self._mounts and path != "/":
            path = os.path.dirname(path)
        return self._mounts.get(path)
