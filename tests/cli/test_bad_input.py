"""Bad input gets a sentence that says what is wrong and what to do; nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Said, Vdbackup
from vdbackup.disks.host_file import HostFile
from vdbackup.sources import demo_disk

NOBODY = 65534


def refused(said: Said, *words: str) -> None:
    """Two sentences, or JSON of them; no traceback, status 1."""
    assert said.status == 1, said
    what, *advice = said.err.strip().splitlines()
    if what.startswith("{"):
        error = json.loads(what)
        what, advice = f"vdbackup: {error['title']}", [error["advice"]]
    assert what.startswith("vdbackup: ")
    assert what.endswith(".")
    assert advice, "it does not say what to do"
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err, f"{word!r} not in {said.err!r}"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@contextmanager
def as_ordinary_user(folder: Path) -> Iterator[None]:
    """Whoever runs the tests: inside, file modes hold, as they do for an ordinary user."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for parent in folder.parents:
        if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o011 != 0o011:
            parent.chmod(parent.stat().st_mode | 0o011)  # the group too: we stay in root's
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def missing(path: Path) -> None:
    """Leave nothing there."""


def empty(path: Path) -> None:
    path.touch()


def folder(path: Path) -> None:
    path.mkdir()


def shorter_than_a_sector(path: Path) -> None:
    path.write_bytes(b"x" * 511)


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (missing, "There is no"),
        (empty, "is empty"),
        (folder, "is a folder"),
        (shorter_than_a_sector, "less than one sector"),
        (pipe, "neither a file nor a block device"),
    ],
)
def test_a_source_that_is_no_disk(
    vdbackup: Vdbackup, tmp_path: Path, make: Callable[[Path], None], word: str
):
    source = tmp_path / "source.img"
    make(source)
    refused(vdbackup("backup", source, "-r", tmp_path / "backups"), word)
    assert not (tmp_path / "backups").exists()


def test_a_source_that_is_a_broken_vmdk(vdbackup: Vdbackup, tmp_path: Path):
    source = tmp_path / "source.vmdk"
    source.write_bytes(b"KDMV" + bytes(2000))
    refused(vdbackup("backup", source, "-r", tmp_path / "backups"), "source.vmdk", "damaged")


def test_a_source_that_may_not_be_read_and_what_would_make_it_readable(
    vdbackup: Vdbackup, disk: Path, tmp_path: Path
):
    disk.chmod(0)
    with as_ordinary_user(tmp_path):
        said = vdbackup("backup", disk, "-r", tmp_path / "backups")
    refused(said, "may not read", "setfacl")


def test_a_repository_that_is_the_source(vdbackup: Vdbackup, disk: Path):
    before = disk.read_bytes()
    refused(vdbackup("backup", disk, "-r", disk), "is the source itself")
    assert disk.read_bytes() == before


def test_a_repository_that_holds_the_source(vdbackup: Vdbackup, repository: Path, disk: Path):
    vdbackup("backup", disk, "-r", repository)
    layer = repository / "laptop/0001-full.vmdk"
    refused(vdbackup("backup", layer, "-r", repository), "lies inside the repository")


def test_a_repository_in_a_folder_of_other_things(vdbackup: Vdbackup, disk: Path):
    refused(vdbackup("backup", disk, "-r", disk.parent / "x" / ".."), "lies inside")
    other = disk.parent / "photos"
    other.mkdir()
    (other / "holiday.jpg").touch()
    refused(vdbackup("backup", disk, "-r", other), "is not empty and is not a repository")


def test_a_folder_that_is_no_repository(vdbackup: Vdbackup, tmp_path: Path):
    refused(vdbackup("list", "-r", tmp_path), "is not a repository")
    refused(vdbackup("repair", "-r", tmp_path), "is not a repository")


def test_a_repository_that_is_read_only(
    vdbackup: Vdbackup, disk: Path, repository: Path, backed_up: list[Path], tmp_path: Path
):
    with as_ordinary_user(tmp_path):
        repository.chmod(0o555)
        (repository / "laptop").chmod(0o555)
        (repository / ".lock").chmod(0o444)
        said = vdbackup("backup", disk, "-r", repository)
        listing = vdbackup("list", "-r", repository)
        repository.chmod(0o755)
    refused(said, str(repository))
    assert listing.status == 0


def test_a_repository_that_is_full(
    vdbackup: Vdbackup,
    disk: Path,
    repository: Path,
    backed_up: list[Path],
    monkeypatch: pytest.MonkeyPatch,
):
    demo_disk.change(disk, "state 4", {})
    before = contents(repository)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(HostFile, "write", full)
    refused(vdbackup("backup", disk, "-r", repository), "full", "Free some space")
    assert contents(repository) == before


def test_a_repository_of_a_newer_layout(
    vdbackup: Vdbackup, disk: Path, repository: Path, backed_up: list[Path]
):
    marker = repository / "vdbackup.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "layout": 2}))
    for command in (["list"], ["verify"], ["repair"], ["merge", "2"]):
        refused(vdbackup(*command, "-r", repository), "layout 2", "newer version")
    refused(vdbackup("backup", disk, "-r", repository), "layout 2")


def test_a_repository_that_another_process_writes_to_is_named_with_its_holder(
    vdbackup: Vdbackup, disk: Path, repository: Path, backed_up: list[Path]
):
    hold = (
        "import sys; from pathlib import Path; from vdbackup.repository.lock import writer_lock\n"
        "with writer_lock(Path(sys.argv[1]), 'testing'): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(repository)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        said = vdbackup("backup", disk, "-r", repository)
        assert vdbackup("list", "-r", repository).status == 0
        holder.kill()
    refused(said, "is in use", str(holder.pid), "testing")
    assert vdbackup("backup", disk, "-r", repository).status == 0  # the lock went with its holder


@pytest.mark.parametrize("command", ["merge", "delete", "boot", "files"])
@pytest.mark.parametrize("reference", ["9", "zzz", ""])
def test_a_point_that_does_not_exist(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], command: str, reference: str
):
    before = contents(repository)
    refused(vdbackup(command, "-r", repository, reference), "matches no recovery point")
    assert contents(repository) == before


def test_a_point_that_is_ambiguous(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path
):
    manifests = sorted((repository / "laptop").glob("000?-*l.json"))
    for path in manifests[1:]:
        data = json.loads(path.read_text())
        path.write_text(json.dumps({**data, "id": "feed" + data["id"][4:]}))
    said = vdbackup("restore", "-r", repository, "feed", tmp_path / "out.raw")
    refused(said, "more than one")


def test_a_set_that_must_be_named_where_there_are_several(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path
):
    second = tmp_path / "second.img"
    demo_disk.create(second, "another disk")
    vdbackup("backup", second, "-r", repository)
    refused(vdbackup("merge", "2", "-r", repository), "laptop", "second", "--set")
    assert vdbackup("merge", "2", "-r", repository, "--set", "laptop").status == 0


def test_a_set_that_belongs_to_another_source(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path
):
    second = tmp_path / "second.img"
    demo_disk.create(second, "another disk")
    said = vdbackup("backup", second, "-r", repository, "--set", "laptop")
    refused(said, "belongs to")


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "x" * 200])
def test_a_set_whose_name_can_be_no_folder(
    vdbackup: Vdbackup, repository: Path, disk: Path, name: str
):
    refused(vdbackup("backup", disk, "-r", repository, "--set", name), "cannot be the name")


def test_merging_a_full(vdbackup: Vdbackup, repository: Path, backed_up: list[Path]):
    refused(vdbackup("merge", "1", "-r", repository), "is a full backup")


def test_merging_a_point_with_siblings(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], disk: Path
):
    vdbackup("backup", disk, "-r", repository, "--type", "differential")
    before = contents(repository)
    refused(vdbackup("merge", "2", "-r", repository), "point 4 also reads through")
    refused(vdbackup("delete", "1", "-r", repository), "points 2, 4 all read through it")
    assert contents(repository) == before


@pytest.mark.parametrize("command", ["restore", "boot", "files", "merge"])
def test_a_layer_that_is_missing(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path, command: str
):
    (repository / "laptop/0001-full.vmdk").unlink()
    before = contents(repository)
    target = [tmp_path / "out.raw"] if command == "restore" else []
    refused(vdbackup(command, "-r", repository, "3", *target), "0001-full.vmdk", "missing")
    assert contents(repository) == before
    assert not (tmp_path / "out.raw").exists()


@pytest.mark.parametrize("command", ["restore", "boot", "files", "merge"])
def test_a_layer_that_is_cut_off(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path, command: str
):
    layer = repository / "laptop/0002-incremental.vmdk"
    layer.chmod(0o644)
    os.truncate(layer, layer.stat().st_size - 70_000)
    target = [tmp_path / "out.raw"] if command == "restore" else []
    refused(vdbackup(command, "-r", repository, "3", *target), layer.name, "cut off or altered")
    assert not (tmp_path / "out.raw").exists()


def test_verify_names_what_is_cut_off_or_missing_and_who_needs_it(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path]
):
    (repository / "laptop/0002-incremental.vmdk").unlink()
    said = vdbackup("verify", "-r", repository, "--json")
    refused(said, "points 2, 3")
    assert [point["ok"] for point in said.json["points"]] == [True, False, False]


def altered(layer: Path) -> int:
    """Flip one bit of the last block that the layer stores; where in the file, in bytes."""
    layer.chmod(0o644)
    with layer.open("r+b") as file:
        at = file.seek(-100, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    layer.chmod(0o444)
    return at


def test_a_layer_with_one_altered_bit_is_found_and_not_restored_in_silence(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path
):
    altered(repository / "laptop/0001-full.vmdk")
    said = vdbackup("verify", "-r", repository, "--json")
    refused(said, "point")
    (finding,) = said.json["points"][0]["findings"]
    assert finding["file"] == "0001-full.vmdk"
    assert finding["length"] == 64 << 10
    target = tmp_path / "out.raw"
    refused(vdbackup("restore", "-r", repository, "1", target), "0001-full.vmdk is damaged")
    assert not target.exists()
    kept = vdbackup("restore", "-r", repository, "1", target, "--ignore-damage")
    assert kept.status == 3
    whole = backed_up[0].read_bytes()
    restored = target.read_bytes()
    at = finding["offset"]
    assert restored[:at] == whole[:at]
    assert restored[at + finding["length"] :] == whole[at + finding["length"] :]
    assert restored != whole


def test_a_damaged_child_is_not_merged_into_a_good_parent(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path]
):
    altered(repository / "laptop/0002-incremental.vmdk")
    before = contents(repository)
    refused(vdbackup("merge", "2", "-r", repository), "0002-incremental.vmdk")
    assert contents(repository) == before


def test_a_restore_that_would_replace_something(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path
):
    target = tmp_path / "precious.raw"
    target.write_bytes(b"precious")
    refused(vdbackup("restore", "-r", repository, "1", target), "exists already", "--overwrite")
    refused(vdbackup("restore", "-r", repository, "1", tmp_path), "is a folder")
    inside = repository / "laptop/out.raw"
    refused(vdbackup("restore", "-r", repository, "1", inside), "inside the repository")
    refused(vdbackup("restore", "-r", repository, "1", tmp_path / "no/out.raw"), "no folder")
    assert target.read_bytes() == b"precious"
    assert vdbackup("restore", "-r", repository, "1", target, "--overwrite").status == 0
    assert target.read_bytes() == backed_up[0].read_bytes()


def test_a_machine_without_qemu(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(repository))
    refused(vdbackup("boot", "-r", repository, "1", "--headless"), "qemu", "install")


def test_a_manifest_that_is_damaged_says_how_to_mend_it(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path]
):
    (repository / "laptop/0002-incremental.json").write_text('{"id": ')
    listing = vdbackup("list", "-r", repository)
    assert (listing.status, listing.err) == (3, "")
    assert "0002-incremental.json" in listing.out
    assert "`vdbackup repair`" in listing.out
    assert vdbackup("repair", "-r", repository).status == 0
    assert vdbackup("verify", "-r", repository).status == 0


def test_wrong_usage_is_status_2(vdbackup: Vdbackup, repository: Path, disk: Path):
    assert vdbackup("bakcup").status == 2
    assert vdbackup("backup", disk).status == 2
    assert vdbackup("backup", disk, "-r", repository, "--keep", "0").status == 2
    said = vdbackup("backup", disk, "-r", repository, "--format", "vdi")
    assert said.status == 2
    assert not repository.exists() or not list(repository.glob("*/"))


def test_output_that_nobody_reads_to_its_end_is_no_traceback(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path]
):
    command = [sys.executable, "-m", "vdbackup", "list", "-r", str(repository)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_disk_names_that_would_steer_a_terminal_are_not_printed(
    vdbackup: Vdbackup, repository: Path, disk: Path
):
    moved = disk.with_name("laptop\x1b[31m.img")
    shutil.move(disk, moved)
    said = vdbackup("backup", moved, "-r", repository)
    assert said.status == 0
    assert "\x1b" not in said.out
