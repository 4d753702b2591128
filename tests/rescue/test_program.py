"""What is packed of the program is what it needs to run, root's, and no window where none is."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

from tests.backup.lab import Lab
from vdbackup import __version__
from vdbackup.errors import Cancelled, RescueMediumFailed
from vdbackup.jobs import CancelToken, Task
from vdbackup.rescue import program
from vdbackup.rescue.contents import contents, suite_for


def test_the_libraries_are_those_that_pip_says_are_needed():
    """`pip check` knows of none that is missing; what only tests need is left here."""
    found = program.distributions("vdbackup")
    assert {"numpy", "dissect-extfs", "dissect-cstruct", "qemu-qmp", "zstandard"} <= set(found)
    assert {"shiboken6", "pyside6-essentials", "backports-zstd"} <= set(found)
    assert {"pytest", "hypothesis", "mypy"}.isdisjoint(found)


def test_what_is_packed_restores_a_disk_on_its_own(tmp_path: Path):
    """Unpacked elsewhere and without this environment: Python, these files, nothing else."""
    (tmp_path / "lab").mkdir()
    lab = Lab(tmp_path / "lab")
    lab.backup()
    archive = tmp_path / "program.tar"
    program.pack(program.collect(window=False), archive, Task())
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "medium", filter="data")
    library = tmp_path / "medium" / program.HOME
    command = [str(Path(sys.base_prefix, "bin/python3")), "-S", "-m", "vdbackup"]

    def said(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments],
            env={"PYTHONPATH": str(library), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    assert said("--version") == f"vdbackup {__version__}\n"
    where = ["-r", str(lab.repository.path)]
    assert json.loads(said("list", "--json", *where))["sets"]
    said("restore", "latest", "again.img", *where)
    assert (tmp_path / "again.img").read_bytes() == lab.image.read_bytes()
    assert said("make-rescue", "--dry-run", "--help")


def test_all_of_it_is_roots_and_only_programs_can_be_run(tmp_path: Path):
    archive = tmp_path / "program.tar"
    program.pack(program.collect(window=False), archive, Task())
    with tarfile.open(archive) as tar:
        members = {member.name: member for member in tar}
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}
    runnable = {name for name, each in members.items() if each.isfile() and each.mode & 0o111}
    assert runnable == {
        "usr/local/bin/vdbackup",
        "usr/local/lib/rescue/window",
        "usr/local/sbin/rescue-session",
    }
    assert {"etc", "usr", "etc/systemd/system", "usr/local/bin"}.isdisjoint(members)
    for name in members:
        assert not PurePosixPath(name).is_absolute()
        assert ".." not in PurePosixPath(name).parts


def test_without_the_window_nothing_of_it_is_packed():
    text, window = program.collect(window=False), program.collect(window=True)

    def top(files: program.Files) -> set[str]:
        return {each.parts[3] for each in files if each.is_relative_to(program.HOME)}

    assert top(window) - top(text) >= {"PySide6", "pyqtgraph", "shiboken6"}
    assert program.HOME / "PySide6/QtWidgets.abi3.so" in window
    assert program.HOME / "PySide6/Qt/plugins/platforms/libqxcb.so" in window
    assert not any("qml" in each.parts for each in window)
    assert program.size_of(window) < 300 << 20


def test_a_collection_that_is_cancelled_ends(tmp_path: Path):
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        program.pack(program.collect(window=False), tmp_path / "program.tar", Task(cancel=cancel))


@pytest.mark.parametrize(
    ("python", "machine", "says"),
    [((3, 12), "x86_64", "Python 3.12"), ((3, 11), "aarch64", "is aarch64")],
)
def test_what_fits_no_debian_is_refused_in_a_sentence(python, machine, says):
    with pytest.raises(RescueMediumFailed, match=says):
        suite_for(python, machine)


def test_libraries_with_compiled_parts_go_to_the_debian_with_their_python():
    assert suite_for((3, 11), "x86_64") == "bookworm"
    assert suite_for((3, 13), "x86_64") == "trixie"


def test_an_installation_that_does_not_know_itself_is_refused(monkeypatch: pytest.MonkeyPatch):
    def unknown(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", unknown)
    with pytest.raises(RescueMediumFailed, match="does not say where vdbackup is"):
        program.collect(window=False)


def test_lists_of_packages_name_each_once():
    names = contents(window=True).packages
    assert len(names) == len(set(names))
    assert set(contents(window=False).packages) < set(names)
    assert {"cryptsetup", "lvm2", "nfs-common", "cifs-utils", "sshfs", "efibootmgr"} <= set(names)
