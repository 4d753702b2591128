"""References to sources: what a text names, and that no name is lost on its way through a text."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.errors import Remedy, SourceError, SourceNotFound
from vdbackup.sources import opening
from vdbackup.sources.disk_source import DiskSource
from vdbackup.sources.opening import open_source
from vdbackup.sources.reference import Scheme, SourceRef
from vdbackup.sources.source import Source

NAMES = st.binary(min_size=1).filter(lambda name: b"\0" not in name).map(os.fsdecode)
"""What a path may be: any bytes but zero."""
SCHEMES = st.from_regex(r"[a-z][a-z0-9+.-]*", fullmatch=True).filter(lambda name: name != "file")
TEXTS = NAMES | st.builds("{}:{}".format, st.just("file") | SCHEMES, NAMES | st.just(""))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/dev/sdb", "/dev/sdb"),
        ("file:/dev/sdb", "/dev/sdb"),
        ("disk.img", "disk.img"),
        ("file:disk.img", "disk.img"),
        ("./a:b", "a:b"),
        ("file:a:b", "a:b"),
        ("file:file:a", "file:a"),
        ("/dev/disk/by-id/usb-0:0", "/dev/disk/by-id/usb-0:0"),
        ("file:/dev/disk/by-path/pci-0000:00:1f.2", "/dev/disk/by-path/pci-0000:00:1f.2"),
        ("../disk:1.img", "../disk:1.img"),
        ("C:\\disk.img", "C:\\disk.img"),
        ("My disk: the old one.img", "My disk: the old one.img"),
        ("FILE:disk.img", "FILE:disk.img"),
        ("file:My%20disk.img", "My%20disk.img"),
        ("file:///home/me/My%20disk%c3%a9.img", "/home/me/My diské.img"),
        ("file://localhost/disk.img", "/disk.img"),
        ("file:///%ff.img", os.fsdecode(b"/\xff.img")),
    ],
)
def test_references_that_name_a_file(text: str, path: str) -> None:
    ref = SourceRef.parse(text)
    assert (ref.scheme, ref.path) == (Scheme.FILE, Path(path))
    assert ref == SourceRef.of_path(Path(path))


@pytest.mark.parametrize(
    ("text", "scheme", "rest"),
    [("lvm:vg/lv", "lvm", "vg/lv"), ("a:b", "a", "b"), ("x+y.1-z:", "x+y.1-z", "")],
)
def test_what_names_another_kind_is_kept_and_shown_and_not_opened(
    text: str, scheme: str, rest: str
) -> None:
    """A set of a newer version may say so."""
    ref = SourceRef.parse(text)
    assert (ref.scheme, ref.rest, str(ref)) == (scheme, rest, text)
    for refused in (lambda: open_source(ref), lambda: ref.path):
        with pytest.raises(SourceNotFound) as refusal:
            refused()
        assert refusal.value.title == (
            f"There is no file {text}, and no kind of source called {scheme} (known: file, files)."
        )
        assert (refusal.value.remedy, refusal.value.code) == (
            Remedy.LIST_DEVICES,
            "source-not-found",
        )


@given(TEXTS)
def test_a_reference_is_read_as_it_was_written(text: str) -> None:
    ref = SourceRef.parse(text)
    assert SourceRef.parse(str(ref)) == ref
    assert hash(SourceRef.parse(str(ref))) == hash(ref)
    assert SourceRef.parse(json.loads(json.dumps({"path": str(ref)}))["path"]) == ref


@given(NAMES)
def test_any_path_is_written_so_that_it_is_that_path_to_everybody(name: str) -> None:
    """To older versions, too: they take the text for a path."""
    ref = SourceRef.of_path(Path(name))
    assert ref.path == Path(name) == Path(str(ref))
    assert str(ref.absolute()) == str(Path(name).absolute())


@given(NAMES.filter(lambda name: not name.startswith("//")))  # that is another program's spelling
def test_any_path_can_be_said_with_its_kind(name: str) -> None:
    assert SourceRef.parse(f"file:{name}") == SourceRef.of_path(Path(name))


def test_a_relative_path_means_the_folder_that_is_worked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("disk.img", "./disk.img", "file:disk.img", "file:./disk.img"):
        assert str(SourceRef.typed(text).absolute()) == f"{tmp_path}/disk.img"
    assert SourceRef.parse("lvm:vg/lv").absolute() == SourceRef.parse("lvm:vg/lv")


@pytest.mark.parametrize("name", ["lvm:disk.img", "file:disk.img", "~", "~disk", "file:"])
def test_a_file_whose_name_looks_like_a_reference_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(bytes(512))
    ref = SourceRef.typed(name)
    assert ref == SourceRef.of_path(Path(name))
    with open_source(ref) as source:
        assert source.size == 512
    Path(name).unlink()
    Path(name).symlink_to("nowhere")  # a link that leads nowhere is one, too
    assert SourceRef.typed(name) == ref


def test_a_home_folder_can_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for text in ("~/disk.img", "file:~/disk.img"):
        assert SourceRef.typed(text).path == Path("/home/me/disk.img")
    assert SourceRef.typed("~nobody-of-that-name/x").path == Path("~nobody-of-that-name/x")


def test_a_file_is_opened_by_each_of_its_names(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    disk = tmp_path / os.fsdecode(b"d\xefsk.img")
    disk.write_bytes(bytes(1024))
    (tmp_path / "link").symlink_to(disk)
    for text in (disk.name, f"./{disk.name}", f"file:{disk.name}", str(disk), f"file:{disk}"):
        with open_source(SourceRef.typed(text)) as source:
            assert (source.title, source.name, source.size) == (str(disk), disk.stem, 1024)
    with open_source(SourceRef.typed("file:link")) as source:
        assert source.title == str(disk)


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(SourceError, match="zero byte"):
        open_source(SourceRef.parse("/dev/sd\0b"))
    with pytest.raises(SourceError, match="zero byte"):
        open_source(SourceRef.typed("file:///dev/%00"))


def test_each_kind_that_is_known_can_be_opened() -> None:
    assert set(opening._KINDS) == set(Scheme)


def test_every_kind_of_source_has_what_the_protocol_says(tmp_path: Path) -> None:
    """The type checker compares the signatures; here, that nothing is owed without a word."""
    owed = [name for name in vars(Source) if not name.startswith("_")]
    assert {"size", "sector_size", "facts", "data_ranges", "readinto", "trouble"} <= set(owed)
    for name in (*owed, "__enter__", "__exit__"):
        assert inspect.getdoc(getattr(Source, name))
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(512))
    with open_source(SourceRef.of_path(disk)) as source:
        assert isinstance(source, DiskSource)
        assert all(hasattr(source, name) for name in owed)


@pytest.mark.parametrize("text", ["", "file:"])
def test_no_name_at_all_is_not_the_folder_that_is_worked_in(text: str) -> None:
    """A set that has lost what its source was has such a one."""
    for ref in (SourceRef.parse(text), SourceRef.typed(text), SourceRef.parse(text).absolute()):
        assert str(ref) == ""
        with pytest.raises(SourceNotFound, match="No source is named"):
            open_source(ref)
