"""What is in a point: its files, listed, copied out, or as a folder of this computer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.disks.chain import Chain
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.jobs import Task
from vdbackup.recovery.mount import background, mounting
from vdbackup.recovery.mount.mounting import Mounted
from vdbackup.repository import claims
from vdbackup.repository.repository import Repository
from vdbackup.text import printable
from vdbackup.translation import tr, trn
from vdbackup.volumes.keys import Keys
from vdbackup.volumes.volumes import Volumes

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    from vdbackup.recovery.browse import Entry, FileBrowser
    from vdbackup.recovery.history.versions import Versions


class Browser:
    """The files in a point; all methods are called on one thread, after another.

    Attributes:
        keys: that have opened something that is encrypted.
    """

    def __init__(self, folder: Path, set_name: str, point_id: str) -> None:
        self._what = (folder, set_name, point_id)
        self._point = ExitStack()
        self._chain: Chain | None = None
        self._open: FileBrowser | None = None
        self._read_volumes: Volumes | None = None
        self.keys = Keys()

    def is_locked(self) -> bool:
        """Whether something is encrypted that no key has opened."""
        return any(volume.is_locked for volume in self._files.volumes())

    def unlock(self, secret: bytes) -> None:
        """Read what is encrypted, too; raises what `FileBrowser.unlock` does."""
        self._files.unlock(Keys((secret,), opened=self.keys.opened))
        self.keys = self.keys.also(secret)

    @property
    def _files(self) -> FileBrowser:
        from vdbackup.recovery.browse import FileBrowser

        if self._open is None:
            self._open = FileBrowser(self._disk, self._volumes)
        return self._open

    @property
    def _volumes(self) -> Volumes:
        if self._read_volumes is None:
            self._read_volumes = Volumes(self._disk)
        return self._read_volumes

    def listing(self, path: str) -> list[tuple[str, Entry]]:
        """The entries of a folder with what to call them, folders first."""
        browser = self._files
        entries = browser.listing(path)
        entries.sort(key=lambda entry: (entry.kind != "folder", entry.name.lower()))
        systems = {each.name: each.filesystem for each in browser.volumes()} if path == "/" else {}
        return [
            (
                printable(
                    f"{entry.name} ({systems[entry.name] or tr('unknown contents')})"
                    if entry.name in systems
                    else entry.name
                ),
                entry,
            )
            for entry in entries
        ]

    def search(self, text: str, task: Task) -> list[tuple[str, Entry]]:
        """Files whose names hold a text, with what to call them: their paths."""
        from vdbackup.recovery.history import find

        return [(printable(each.path), each) for each in find.in_volumes(self._volumes, text, task)]

    def copy(self, path: str, folder: Path, task: Task) -> Path:
        """Copy a file into an empty folder; the copy, which nobody runs or changes.

        Raises what an extraction does.
        """
        self._files.extract([path], folder, task)
        made = next(folder.iterdir())
        made.chmod(0o400)
        return made

    def copy_all(self, paths: Sequence[str], folder: Path, task: Task) -> list[Path]:
        """Copy files and folders into an empty folder; the copies. Raises what an extraction does.

        Nobody has looked at the point's digests for that: who wants that extracts.
        """
        self._files.extract(paths, folder, task)
        return sorted(folder.iterdir())

    def content(self, path: str, task: Task) -> bytes:
        """All that a file holds, which is to be small."""
        with tempfile.TemporaryDirectory(prefix="vdbackup-") as folder:
            return self.copy(path, Path(folder), task).read_bytes()

    @property
    def _disk(self) -> Chain:
        """The point's, opened when it is first needed."""
        if self._chain is None:
            opened = open_point(*self._what, tr("showing the files of"))
            self._chain = self._point.enter_context(opened)
        return self._chain

    def warnings(self, path: str) -> tuple[str, ...]:
        """Why what a folder shows may not be the newest; it was listed before."""
        return self._open.warnings([path]) if self._open else ()

    def close(self) -> None:
        """Close the point's disks, and let them be changed again."""
        self._chain = self._open = self._read_volumes = None
        self._point.close()


class PointFolder:
    """A point that can be a folder of this computer; its methods are called on one thread.

    Attributes:
        where: the folder, which is made and goes again.
        keys: of what is encrypted, for whoever mounts it next.
        stays: whether it is left when nobody browses the point any more.
    """

    def __init__(self, folder: Path, set_name: str, point_id: str, where: Path) -> None:
        self._what = (folder, set_name, point_id)
        self.where = where
        self.keys = Keys()
        self.stays = self.is_mounted

    @property
    def is_mounted(self) -> bool:
        """Whether it shows the point; an earlier window may have left it so."""
        return mounting.is_mounted(self.where)

    def mount(self, _task: Task) -> Mounted:
        """Show the point's files; raises what `recovery.mount.background.start` does."""
        self._make()
        return background.start(*self._what, self.where, self.keys)

    def mount_disk(self, _task: Task) -> Mounted:
        """Show the whole disk as one file; raises as `mount`."""
        self._make()
        return background.start_disk(*self._what, self.where)

    def unmount(self, _task: Task) -> None:
        """Show it no more; raises what `recovery.mount.mounting.unmount` does."""
        mounting.unmount(self.where)
        self._remove()

    def close(self) -> None:
        """Let go of it where it is not to stay; whoever has a file of it open can go on."""
        if not self.stays and self.is_mounted:
            mounting.detach(self.where)
            self._remove()

    def _make(self) -> None:
        mounting.clear(self.where)  # where an earlier one was killed, nobody can say what it is
        self.where.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _remove(self) -> None:
        with suppress(OSError):  # it is no more than an empty folder
            self.where.rmdir()


def open_point(
    folder: Path, set_name: str, point_id: str, doing: str
) -> AbstractContextManager[Chain]:
    """A point's disk, which nobody changes meanwhile; `doing` says what for, before its name."""
    repository = Repository.open(folder)
    point = repository.set(set_name).point(point_id)
    what = tr("{doing} point {point}", doing=doing, point=point.sequence)
    return claims.open_point(repository, set_name, point_id, what)


def extract(
    folder: Path,
    set_name: str,
    point_id: str,
    paths: Sequence[str],
    destination: Path,
    keys: Keys,
    task: Task,
) -> Outcome[Path]:
    """Copy files out of a point, with the keys of what is encrypted; the destination."""
    from vdbackup.recovery.browse import FileBrowser
    from vdbackup.repository import checked

    repository = Repository.open(folder)
    point = repository.set(set_name).point(point_id)
    doing = tr("extracting files of point {point}", point=point.sequence)
    with checked.open_point(repository, set_name, point_id, doing) as disk:
        browser = FileBrowser(disk)
        if keys:
            browser.unlock(keys)
        warnings = browser.extract(paths, destination, task)
    sentence = trn(
        "{count} item extracted to {destination}.",
        "{count} items extracted to {destination}.",
        len(paths),
        destination=destination,
    )
    return Outcome(sentence, tuple(paths), tuple(warnings), value=destination)


def versions(folder: Path, set_name: str, path: str, keys: Keys, task: Task) -> Versions:
    """Each state of a file over a set's points, with the keys of what is encrypted."""
    from vdbackup.recovery.history import versions

    return versions.versions(Repository.open(folder), set_name, path, task, keys)
