"""Drivers for an initramfs that lacks them: the archive that is put behind it.

What an initramfs loads by itself it finds through modprobe: udev hands it the name by which a
device asks for a driver, initramfs-tools also the list in conf/modules, and dracut what
rd.driver.pre= names. All of these go through the indexes in lib/modules/VERSION. So the archive
holds the driver's file, what that needs, and indexes of what is then in the initramfs: those of the
initramfs itself with the lines for the new files added. Tried with initramfs-tools 0.142 and
dracut 059: the drivers are loaded when the device shows up, as if they had always been there. A
list of modules to load (conf/modules, /etc/modules-load.d) alone does nothing, because modprobe
does not know the names; and the whole system's indexes name files that are not there.
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import PurePosixPath

import zstandard

from vdbackup.errors import GuestUnreadable, RecoveryError
from vdbackup.recovery.retarget.linux import kmod_index
from vdbackup.recovery.retarget.linux.cpio import Member, archive
from vdbackup.translation import tr

INDEXES = ("modules.dep", "modules.alias", "modules.softdep")
"""What is read of a tree of modules."""
_MAX_LENGTH = 512
"""Characters of an alias; the longest of Linux 6.12 has 180."""
_MAX_SIZE = 64 << 20
"""Bytes of an unpacked module."""

Read = Callable[[str], bytes]
"""A file's content by its path in a tree of modules ("kernel/fs/ext4/ext4.ko")."""


@dataclass(frozen=True)
class Modules:
    """What the text indexes of a folder lib/modules/VERSION say.

    Attributes:
        files: each module's path in the folder, by its name with underscores.
        needs: the names of all that a module needs, what those need included, nearest first.
        aliases: (alias, module), as modules.alias has them.
        before: what is loaded before a module where it is there (softdep), by its name.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: Sequence[tuple[str, str]] = ()
    before: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Modules:
        """From the contents of INDEXES, external text: lines that make no sense are passed over."""
        files, needs = {}, {}
        for line in texts.get("modules.dep", "").splitlines():
            path, colon, others = line.partition(":")
            if colon and _is_inside(path):
                files[module_name(path)] = path
                needs[module_name(path)] = tuple(module_name(other) for other in others.split())
        aliases = [
            (words[1], words[2])
            for words in map(str.split, texts.get("modules.alias", "").splitlines())
            if len(words) == 3 and len(words[1]) <= _MAX_LENGTH and words[1].isascii()
        ]
        before: dict[str, tuple[str, ...]] = {}
        for words in map(str.split, texts.get("modules.softdep", "").splitlines()):
            if words[2:3] == ["pre:"]:
                before[words[1]] = tuple(takewhile(lambda word: word != "post:", words[3:]))
        return cls(files, needs, aliases, before)

    def closure(self, names: Iterable[str]) -> list[str]:
        """The named modules that are here, and all that they need; each after what it needs."""
        ordered: dict[str, None] = {}
        waiting = list(names)[::-1]
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in ordered or name not in self.files:
                continue
            wanted = [*self.before.get(name, ()), *self.needs[name][::-1]]
            missing = [n for n in wanted if n not in ordered and n not in seen and n in self.files]
            if missing and name not in seen:
                waiting += [name, *missing[::-1]]
                seen.add(name)
            else:
                ordered[name] = None
        return list(ordered)


def module_name(path: str) -> str:
    """The module's name from its file's: "kernel/fs/a-b.ko.xz" is a_b."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def driver_archive(
    folder: str, there: Modules, system: Modules, wanted: Iterable[str], read: Read
) -> tuple[bytes, tuple[str, ...]]:
    """What is to stand behind an initramfs, so that it finds the wanted drivers.

    Args:
        folder: where the initramfs keeps its modules ("usr/lib/modules/6.1.0-50-amd64"), no link.
        there: what it holds by itself.
        system: what the system's own lib/modules/VERSION holds.
        wanted: names of drivers; what is built into the kernel is in neither, and passed over.
        read: a file of the system's.

    Returns:
        The archive, and the names of the modules that it adds; (b"", ()) where none is missing.

    Raises:
        RecoveryError: a module is not what it should be.
    """
    added = [name for name in system.closure(wanted) if name not in there.files]
    if not added:
        return b"", ()
    new = {name: _uncompressed_name(system.files[name]) for name in added}
    members = [
        Member(f"{folder}/{path}", _uncompressed(system.files[name], read(system.files[name])))
        for name, path in new.items()
    ]
    files = {**there.files, **new}
    needs = {**there.needs, **{name: system.needs[name] for name in added}}
    lines = {
        name: " ".join([f"{path}:", *(files[each] for each in needs[name] if each in files)])
        for name, path in files.items()
    }
    aliases = [*there.aliases, *(pair for pair in system.aliases if pair[1] in new)]
    before = {**there.before, **{n: system.before[n] for n in added if n in system.before}}
    members += [
        _text(f"{folder}/modules.dep", lines.values()),
        Member(f"{folder}/modules.dep.bin", kmod_index.dependencies(lines)),
        _text(f"{folder}/modules.alias", (f"alias {alias} {name}" for alias, name in aliases)),
        Member(f"{folder}/modules.alias.bin", kmod_index.aliases(aliases)),
        _text(
            f"{folder}/modules.softdep",
            (f"softdep {name} pre: {' '.join(others)}" for name, others in before.items()),
        ),
    ]
    parents = _missing_folders(folder, new.values(), there.files.values())
    return archive([*parents, *members]), tuple(added)


def _missing_folders(folder: str, new: Iterable[str], there: Iterable[str]) -> list[Member]:
    """The folders that only the new files are in: see `archive` for why no others."""
    present = {str(parent) for path in there for parent in PurePosixPath(path).parents}
    wanted = {str(parent) for path in new for parent in PurePosixPath(path).parents}
    return [Member(f"{folder}/{name}", None) for name in sorted(wanted - present - {"."})]


def _text(name: str, lines: Iterable[str]) -> Member:
    return Member(name, "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts


def _uncompressed_name(path: str) -> str:
    """Files go in unpacked: the kmod of an initramfs may know less than the system's."""
    stem, suffix, _ = path.rpartition(".ko")
    return stem + suffix


def _uncompressed(path: str, data: bytes) -> bytes:
    try:
        if path.endswith(".xz"):
            data = lzma.LZMADecompressor().decompress(data, _MAX_SIZE)
        elif path.endswith(".zst"):
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        elif path.endswith(".gz"):
            data = gzip.decompress(data)
    except (lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
        raise _damaged(path) from error
    if not data.startswith(b"\x7fELF") or len(data) > _MAX_SIZE:
        raise _damaged(path)
    return data


def _damaged(path: str) -> RecoveryError:
    return GuestUnreadable(
        tr("The driver {path} in this recovery point is damaged.", path=PurePosixPath(path).name),
        tr("Choose hardware that needs no other driver, or use another recovery point."),
    )
