"""exFAT as the program that is not ours writes it: chains that are scattered, times, and damage."""

from __future__ import annotations

import operator
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks.damage import no_more_memory
from tests.noise import noise
from tests.volumes import volumes
from tests.volumes.volumes import MIB, browsing
from vdbackup.errors import RecoveryError
from vdbackup.jobs import Task


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An empty exFAT of clusters of 4 KiB."""
    volumes.blank(tmp_path / "image", 64 * MIB)
    volumes.run("mkfs.exfat", "-c", "4K", tmp_path / "image")
    return tmp_path / "image"


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    top = image.with_name("mounted")
    top.mkdir(exist_ok=True)
    with volumes.exfat_mounted(image, top):
        yield top


def extracted(image: Path, into: Path) -> tuple[str, ...]:
    with browsing(image) as browser:
        return browser.extract(["/"], into, Task())


def test_files_that_grew_in_turn_are_scattered_and_come_back(image: Path, tmp_path: Path) -> None:
    wanted = {f"file {number}": bytearray() for number in range(5)}
    with mounted(image) as top:
        for turn in range(40):
            for number, (name, data) in enumerate(wanted.items()):
                piece = noise(5000 + number, 100 * turn + number)
                data.extend(piece)
                with (top / name).open("ab") as file:
                    file.write(piece)
        (top / "file 2").unlink()
        (top / "large").write_bytes(noise(3 * MIB, 1))
    del wanted["file 2"]
    assert extracted(image, tmp_path / "out") == ()
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == {**wanted, "large": noise(3 * MIB, 1)}


def test_a_folder_of_many_long_names_is_listed(image: Path) -> None:
    names = {f"{number:04} {'n' * 180} \N{CAMERA} ö" for number in range(2000)}
    with mounted(image) as top:
        (top / "folder").mkdir()
        for name in names:
            (top / "folder" / name).touch()
    with browsing(image) as browser:
        assert {entry.name for entry in browser.listing("/folder")} == names


def test_times_are_those_that_were_set(image: Path, tmp_path: Path) -> None:
    with mounted(image) as top:
        (top / "file").write_bytes(b"f")
        os.utime(top / "file", (1_600_000_000, 1_490_495_401))
        shown = (top / "file").stat().st_mtime
    extracted(image, tmp_path / "out")
    assert (tmp_path / "out" / "file").stat().st_mtime == shown
    assert abs(shown - 1_490_495_401) <= 1


def damaged(image: Path, before: bytes, after: bytes, start: int = 0) -> None:
    data = bytearray(image.read_bytes())
    at = data.index(before, start)
    data[at : at + len(before)] = after
    image.write_bytes(data)


def test_a_damaged_entry_costs_its_file_alone(image: Path, tmp_path: Path) -> None:
    with mounted(image) as top:
        for name in ("one", "two", "three"):
            (top / name).write_bytes(name.encode())
    damaged(image, "two".encode("utf-16-le"), "tWo".encode("utf-16-le"))
    (said,) = extracted(image, tmp_path / "out")
    assert "tWo cannot be read: its entry is damaged" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one", "three"}


def test_a_damaged_beginning_is_refused_in_a_sentence(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(2000)
        file.write(b"!")
    with browsing(image) as browser, pytest.raises(RecoveryError, match="sectors are damaged"):
        browser.listing("/")


def test_a_chain_in_a_circle_is_refused(image: Path, tmp_path: Path) -> None:
    with mounted(image) as top:
        for turn in range(4):
            for name in ("one", "other"):
                with (top / name).open("ab") as file:
                    file.write(noise(4096, turn))
    data = bytearray(image.read_bytes())
    fat = int.from_bytes(data[80:84], "little") * 512
    entries = [int.from_bytes(data[fat + 4 * n : fat + 4 * n + 4], "little") for n in range(64)]
    linked = [n for n, to in enumerate(entries) if n > 1 and 1 < to < 64]
    data[fat + 4 * linked[-1] : fat + 4 * linked[-1] + 4] = linked[-1].to_bytes(4, "little")
    image.write_bytes(data)
    said = extracted(image, tmp_path / "out")
    assert any("its chain of clusters is damaged" in each for each in said)


def sealed(data: bytearray, sets: list[int]) -> bytes:
    """The image with the checksums that belong to what it says now."""
    for at in sets:
        whole = data[at : at + 32 * (1 + data[at + 1])]
        found = 0
        for place, byte in enumerate(whole):
            if place not in (2, 3):
                found = ((found << 15 | found >> 1) + byte) & 0xFFFF
        data[at + 2 : at + 4] = found.to_bytes(2, "little")
    found = 0
    for place, byte in enumerate(data[: 11 * 512]):
        if place not in (106, 107, 112):
            found = ((found << 31 | found >> 1) + byte) & 0xFFFF_FFFF
    data[11 * 512 : 12 * 512] = found.to_bytes(4, "little") * 128
    return bytes(data)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, list[int]]:
    """A small exFAT with folders in it, its bytes, and where its entries begin."""
    image = tmp_path_factory.mktemp("small") / "image"
    volumes.blank(image, 4 * MIB)
    volumes.run("mkfs.exfat", "-c", "4K", image)
    with mounted(image) as top:
        for number in range(12):
            file = top / f"folder {number % 3}" / "inner" / f"file {number}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(noise(700 * number, number))
    data = image.read_bytes()
    sets = [at for at in range(0, len(data), 32) if data[at] == 0x85 and data[at + 32] == 0xC0]
    assert len(sets) >= 18
    return image, data, sets


@given(lies=st.data())
def test_no_lie_under_its_own_seal_leads_to_more_than_a_sentence(
    lies: st.DataObject,
    small: tuple[Path, bytes, list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    image, data, sets = small
    changed = bytearray(data)
    table = int.from_bytes(data[80:84], "little") * 512
    places = st.one_of(
        st.builds(operator.add, st.sampled_from(sets), st.integers(0, 95)),
        st.integers(72, 110),
        st.builds(lambda cluster: table + 4 * cluster, st.integers(0, 63)),
    )
    word = st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)])
    for at, new in lies.draw(st.lists(st.tuples(places, word), min_size=1, max_size=6)):
        changed[at : at + len(new)] = new
    lied = image.with_name("lied")
    lied.write_bytes(sealed(changed, sets)[: len(data)])
    folder = tmp_path_factory.mktemp("out")
    with no_more_memory(512 * MIB), browsing(lied) as browser:  # noqa: SIM117
        with suppress(RecoveryError):
            browser.volumes()
            browser.extract(["/"], folder / "out", Task())
    shutil.rmtree(folder)
