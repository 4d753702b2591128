"""An ordinary user backs up in the window what only root may read: by the real agent, as root.

polkit alone is a stand-in (tests/agent/agents.py): its dialogue is the desktop's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.agent.agents import Agents, agents_for
from tests.agent.mounts import MIB, image
from tests.agent.trackers import own_trackers
from tests.gui.user import User
from tests.noise import noise
from tests.sources.loops import loop, mounted
from tests.sources.ordinary_user import NOBODY, as_an_ordinary_user, open_folder
from vdbackup.gui.add_source import AddSourceDialog
from vdbackup.gui.tracking_dialog import TrackingDialog
from vdbackup.locations import Locations

pytestmark = pytest.mark.usefixtures("as_root")
FROZEN = "Consistent, all file systems frozen together for "


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """One that every user may look into."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def agents(tmp_path: Path, stack: ExitStack) -> Agents:
    return stack.enter_context(agents_for(stack.enter_context(own_trackers(tmp_path / "bpf"))))


@pytest.fixture
def device(agents: Agents, tmp_path: Path, stack: ExitStack) -> Path:
    """With a mounted ext4; every user may use it for backups, and only root may read it."""
    device = stack.enter_context(loop(image(tmp_path / "system.img", 48, "ext4")))
    stack.enter_context(mounted(device, tmp_path / "mount", "-o", "nodiscard"))
    agents.allow(device)
    return device


@pytest.fixture
def ordinary(
    device: Path, with_source: User, locations: Locations, repository: Path
) -> Iterator[User]:
    """Somebody without root's rights, before a window that has shown already what it can."""
    for place in (repository, locations.config, locations.data, locations.logs, locations.cache):
        for folder, _, files in os.walk(place):
            for each in (folder, *(os.path.join(folder, name) for name in files)):
                os.chown(each, NOBODY, NOBODY)
    with as_an_ordinary_user():
        yield with_source


@contextmanager
def root() -> Iterator[None]:
    """Meanwhile somebody else does something, who may do all."""
    os.setresuid(0, 0, 0)
    try:
        yield
    finally:
        os.setresuid(NOBODY, NOBODY, 0)


def add(user: User, device: Path, repository: Path) -> AddSourceDialog:
    """Ask for a first backup of it."""
    user.asks_for("actionAddSource")
    dialog = user.sees(AddSourceDialog, "addSourceDialog")
    dialog.form.source_edit.setText(str(device))
    dialog.form.repository_edit.setText(str(repository))
    dialog.form.start_button.click()
    return dialog


def test_the_disk_that_a_system_runs_from_is_backed_up_by_who_may_use_it(
    ordinary: User, device: Path, agents: Agents, repository: Path, tmp_path: Path
) -> None:
    add(ordinary, device, repository)
    ordinary.agrees()
    ordinary.waits_until(lambda: FROZEN in ordinary.window.details.fact("moment"))
    ordinary.asks_for("trackSource")
    dialog = ordinary.sees(TrackingDialog, "trackingDialog")
    ordinary.waits_until(lambda: "are not tracked" in dialog.said.text)
    ordinary.clicks("trackButton")
    ordinary.waits_until(dialog.end_button.isEnabled)
    dialog.close()
    ordinary.backs_up(2)
    with root():
        (tmp_path / "mount/file").write_bytes(noise(MIB, 1))
    ordinary.backs_up(3)
    ordinary.waits_until(
        lambda: "what has changed was known" in ordinary.window.details.fact("read")
    )
    assert FROZEN in ordinary.window.details.fact("moment")
    with root():
        actions = {asked.split()[1].rpartition(".")[2] for asked in agents.asked}
        assert actions == {"use-system-disk", "see-tracked-disks"}
        assert agents.said == ""


def test_whom_polkit_refuses_it_is_told_so_where_they_asked(
    ordinary: User, device: Path, agents: Agents, repository: Path
) -> None:
    with root():
        agents.allow()
    dialog = add(ordinary, device, repository)
    ordinary.waits_until(dialog.form.refusal.isVisible)
    assert "polkit refuses it" in dialog.form.refusal.text
    with root():
        agents.allow(device)
    dialog.form.start_button.click()
    ordinary.agrees()
    ordinary.sees_points(1)
