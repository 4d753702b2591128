"""Whether a full of a device fits is guessed from a sample before it begins."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.noise import noise
from tests.sources.loops import detach, unmount
from tests.sources.opened import open_path
from vdbackup.backup import capture
from vdbackup.errors import NoSpace
from vdbackup.jobs import Task
from vdbackup.repository.repository import Repository
from vdbackup.sources.sample import BLOCK, MAX_PLACES, stored_share

MIB = 1 << 20
SIZE = 64 * MIB


@contextmanager
def device(folder: Path, share: float) -> Iterator[Path]:
    """A loop device of 64 MiB whose blocks hold something, one here and there, up to that share."""
    image = folder / "device.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
        for number in range(SIZE // BLOCK):
            if int((number + 1) * share) > int(number * share):
                file.seek(number * BLOCK)
                file.write(noise(BLOCK, number))
    attach = ["losetup", "--find", "--show", str(image)]
    loop = subprocess.run(attach, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    try:
        yield Path(loop)
    finally:
        detach(Path(loop))


@pytest.fixture
def storage(as_root: None, tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "small", str(folder)]
    subprocess.run(mount, check=True)
    yield folder
    unmount(folder)


def back_up(loop: Path, folder: Path) -> capture.CaptureResult:
    repository = Repository.open_or_create(folder)
    with open_path(loop) as source:
        return capture.run(capture.plan(repository, source), Task())


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_the_guess_holds_what_the_device_holds(tmp_path, share):
    with device(tmp_path, share) as loop, open_path(loop) as source:
        least, most = stored_share(source, np.array([[0, source.size]], np.int64))
    assert least <= share * SIZE <= most
    assert most - least < SIZE * 0.17
    assert SIZE // BLOCK > MAX_PLACES


def test_a_device_that_cannot_fit_is_refused_with_figures_before_it_begins(tmp_path, storage):
    with device(tmp_path, 1.0) as loop, pytest.raises(NoSpace, match=r"may need 6\d MiB, .* 48"):
        back_up(loop, storage / "repository")
    assert Repository.open(storage / "repository").names() == []


def test_a_large_device_that_is_mostly_empty_fits_and_nothing_is_said(tmp_path, storage):
    with device(tmp_path, 0.3) as loop:
        assert back_up(loop, storage / "repository").warnings == ()


def test_one_that_may_not_fit_is_tried_and_the_storage_is_said_to_be_small(tmp_path, storage):
    with device(tmp_path, 0.71) as loop:
        result = back_up(loop, storage / "repository")
    (warning,) = result.warnings
    assert "free some space before the next one" in warning
    assert result.point.warnings == ()
