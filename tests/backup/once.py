"""What many tests begin with, done once in each process: a backup costs 90 ms, its copy 3.

A copy is what the same would have made in another place: all files with their modes and times, and
the path and the identity of the copied source where the records name those of the first.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.backup import sparse
from tests.backup.kept import Contents, Kept
from tests.backup.lab import Lab
from vdbackup.repository.repository import Repository
from vdbackup.sources.file_identity import file_identity

_CONTENTS: Contents = {}


class Backups:
    """A repository, the image that was backed up into it, and what else belongs to the two.

    Args:
        repository: its folder.
        image: the source of its sets.
        others: more files.
    """

    def __init__(self, repository: Path, image: Path, *others: Path) -> None:
        self._repository = Kept(repository, _CONTENTS)
        self._source = _words(image)
        self._files = [sparse.contents(path) for path in (image, *others)]

    def bring_to(self, repository: Path, image: Path, *others: Path) -> None:
        """Make copies in these places; what is there goes."""
        for path, contents in zip((image, *others), self._files, strict=True):
            path.unlink(missing_ok=True)
            sparse.write(path, contents)
        self._repository.bring_to(repository)
        words = dict(zip(self._source, _words(image), strict=True))
        for path in repository.rglob("*.json"):
            _replace(path, words)


_MADE: dict[str, Backups] = {}


def made_once(
    name: str, make: Callable[[], object], repository: Path, image: Path, *others: Path
) -> None:
    """Copies of what was made under that name before, in these places; `make` makes the first."""
    if name in _MADE:
        _MADE[name].bring_to(repository, image, *others)
    else:
        make()
        _MADE[name] = Backups(repository, image, *others)


def once(story: Callable[[Lab], object]) -> Callable[[Lab], Lab]:
    """Decorates what is done with a new lab: what it made of such a lab before is copied.

    It may change what lies in the repository, the image, `moments` and `overlays`.
    """
    told: dict[tuple[str, bytes], tuple[Backups, list[str], list[str]]] = {}

    @functools.wraps(story)
    def begun(lab: Lab) -> Lab:
        assert not lab.moments, "the lab is not new"
        key = lab.disk_format, sparse.digest(lab.image)
        if key not in told:
            story(lab)
            files = [*lab.moments.values(), *lab.overlays.values()]
            backups = Backups(lab.repository.path, lab.image, *files)
            told[key] = backups, list(lab.moments), list(lab.overlays)
            return lab
        backups, moments, overlays = told[key]
        lab.moments = {point: lab.folder / f"{point}.raw" for point in moments}
        lab.overlays = {point: lab.folder / f"{point}.overlay.raw" for point in overlays}
        files = [*lab.moments.values(), *lab.overlays.values()]
        backups.bring_to(lab.repository.path, lab.image, *files)
        lab.repository = Repository.open(lab.repository.path)
        return lab

    return begun


def _words(image: Path) -> list[bytes]:
    """What records know a source by that is a file: its path, and which file it is."""
    return [json.dumps(str(image))[1:-1].encode(), file_identity(image).encode()]


def _replace(path: Path, words: dict[bytes, bytes]) -> None:
    """Put others in the place of words, and leave the file's mode and times as they are."""
    status, text = path.stat(), path.read_bytes()
    for old, new in words.items():
        text = text.replace(old, new) if old else text
    path.unlink()
    path.write_bytes(text)
    path.chmod(status.st_mode & 0o7777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
