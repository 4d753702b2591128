"""Very long chains for QEMU: few files, and the same disk."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disks.shelf import GRAIN, Shelf
from tests.noise import noise
from vdbackup.disks.chain import Chain
from vdbackup.errors import RecoveryError
from vdbackup.qemu import concatenation, gathering
from vdbackup.qemu.gathering import Files, gathered

SIZE = 90 * GRAIN + 8 * 512  # the last block is short
LAYERS = 14


@pytest.fixture
def chain(tmp_path: Path, disk_format: str) -> Iterator[Chain]:
    """A large base, and small layers on it: some show nothing any more, one shows zeros."""
    shelf = Shelf(tmp_path, SIZE, disk_format)
    shelf.layer((0, noise(40 * GRAIN, 1)), (90 * GRAIN, noise(8 * 512, 2)))
    for number in range(1, LAYERS):
        place = (number % 9) * 7 * GRAIN
        shelf.layer((place, GRAIN if number == 5 else noise(GRAIN, 10 + number)))
    shelf.write((90 * GRAIN, noise(8 * 512, 3)))
    shelf.raw_file()
    with Chain.open(shelf.top, disk_format) as chain:
        yield chain


def files_for(chain: Chain, tmp_path: Path) -> Files:
    folder = tmp_path / "session"
    folder.mkdir()
    files = gathered(folder, chain)
    made = concatenation.build(folder, files.flat, files.paths)
    command = ["qemu-img", "compare", "-F", "raw", made.file_name, str(tmp_path / "wanted.raw")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return files


def test_qemu_reads_the_same_disk_from_few_files(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "MAX_FILES", 5)
    files = files_for(chain, tmp_path)
    base, *_, point, overlay = chain.layers
    assert len(files.paths) == 5
    assert {base.path, point.path, overlay.path} < set(files.paths)
    assert files.paths[-1].stat().st_size <= LAYERS * GRAIN


def test_a_chain_that_is_not_so_long_is_read_where_it_is(chain, tmp_path):
    files = files_for(chain, tmp_path)
    assert files.paths == [layer.path for layer in chain.layers]
    assert files.flat is chain.map


def test_no_more_is_copied_than_takes_seconds(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "MAX_FILES", 5)
    monkeypatch.setattr(gathering, "MAX_COPIED", 4 * GRAIN)
    files = files_for(chain, tmp_path)
    assert 5 < len(files.paths) < LAYERS
    assert files.paths[-1].stat().st_size <= 4 * GRAIN


def test_what_is_copied_leaves_space_on_the_disk(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "MAX_FILES", 5)
    usage = shutil.disk_usage(tmp_path)._replace(free=12 * GRAIN)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    files = files_for(chain, tmp_path)
    assert 5 < len(files.paths) < LAYERS
    assert files.paths[-1].stat().st_size <= 3 * GRAIN


def test_a_layer_that_cannot_be_read_is_not_blamed_on_the_session_s_folder(
    chain, tmp_path, monkeypatch
):
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(gathering, "MAX_FILES", 5)
    monkeypatch.setattr(chain, "read", fails)
    with pytest.raises(RecoveryError, match="reads through cannot be read: Input/output error"):
        gathered(tmp_path, chain)


@pytest.fixture
def few_descriptors(monkeypatch):
    """A hard limit, said to be there, that leaves QEMU 6 for a chain (a real one would stay)."""
    limit = gathering.OTHER_FILES + 9
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))


@pytest.mark.usefixtures("few_descriptors")
def test_below_a_hard_limit_of_files_there_are_as_few_as_that_allows(chain, tmp_path):
    assert len(files_for(chain, tmp_path).paths) == 6


@pytest.mark.usefixtures("few_descriptors")
def test_where_that_would_be_too_much_to_copy_it_is_refused_with_advice(
    chain, tmp_path, monkeypatch
):
    monkeypatch.setattr(gathering, "MAX_COPIED", 2 * GRAIN)
    with pytest.raises(RecoveryError, match=f"reads through {LAYERS} files") as refusal:
        gathered(tmp_path, chain)
    assert refusal.value.advice.startswith("Merge older points")
