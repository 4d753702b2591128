"""A repository for devices in use, and trackers that end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent.trackers import MIB, own_trackers
from tests.backup.in_use.devices import Frozen
from vdbackup.agent import last_set
from vdbackup.repository.repository import Repository


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ExitStack]:
    """What is mounted and attached; of tmp_path, so that it ends before that is deleted."""
    with ExitStack() as stack:
        stack.enter_context(own_trackers(tmp_path / "bpf", longest=1024 * MIB))
        yield stack


@pytest.fixture(autouse=True)
def _room_for_what_changes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for the last set is had, and locked, as a whole: 0.1 s of each backup otherwise."""
    monkeypatch.setattr(last_set, "MAX_SIZE", 64 * MIB)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repository")


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Frozen:
    """Notes what the device held in each freeze."""
    return Frozen(monkeypatch)
