"""A file system that is mounted and in use, and a point of it from before."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.agent.mounts import MAKERS, image
from tests.sources.loops import loop, mounted
from vdbackup.backup import capture
from vdbackup.jobs import Task
from vdbackup.operations import backup
from vdbackup.recovery import put_back
from vdbackup.recovery.put_back import PutBack, PutBackPlan, PutBackRequest
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef


@dataclass
class Running:
    """A file system that is mounted, and a point of it from before."""

    device: Path
    folder: Path
    repository: Repository
    set_name: str
    point: str

    def plan(self, *paths: str, overwrite: bool = False) -> PutBackPlan:
        request = PutBackRequest(
            self.repository, self.set_name, self.point, paths, overwrite=overwrite
        )
        return put_back.plan(request, Task())

    def put_back(self, *paths: str, overwrite: bool = False) -> PutBack:
        return put_back.run(self.plan(*paths, overwrite=overwrite), Task())

    def back_up(self) -> None:
        """Make a point of it as it is now, and mean that from then on."""
        request = backup.BackupRequest(SourceRef.of_path(self.device), self.repository.path)
        with backup.planned(request) as plan:
            self.point = capture.run(plan, Task()).point.id


def running(stack: ExitStack, tmp_path: Path, kind: str) -> Running:
    disk = image(tmp_path / "disk.img", MAKERS[kind][0], kind)
    device = stack.enter_context(loop(disk))
    folder = tmp_path / "mount"
    folder.mkdir()
    stack.enter_context(mounted(device, folder))
    (folder / "docs/inner").mkdir(parents=True)
    (folder / "docs/letter").write_text("as it was")
    (folder / "docs/inner/deep").write_bytes(os.urandom(300_000))
    (folder / "docs/link").symlink_to("letter")
    (folder / "docs/same").write_text("the same")
    (folder / "other").write_text("not asked for")
    os.setxattr(folder / "docs/letter", "user.note", b"kept")
    os.chown(folder / "docs/letter", 1234, 5678)
    (folder / "docs/letter").chmod(0o640)
    request = backup.BackupRequest(SourceRef.of_path(device), tmp_path / "kept")
    with backup.planned(request) as plan:
        point = capture.run(plan, Task()).point
    return Running(device, folder, Repository.open(tmp_path / "kept"), plan.set_name, point.id)


def nothing_of_ours(folder: Path) -> bool:
    return not list(folder.rglob(".vdbackup-*"))
