"""README and manual: short enough to be read, no dead links, and examples that work."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.oracles import sevenzip
from vdbackup import cli
from vdbackup.cli.parser import build_parser
from vdbackup.sources import demo_disk

CHECKOUT = Path(__file__).resolve().parents[1]
MANUAL = sorted((CHECKOUT / "resources" / "manual").glob("*.md"))
PAGES = [CHECKOUT / "README.md", CHECKOUT / "vdbackup" / "README.md", *MANUAL]
WORDS = 1200
FORMATS = ("vmdk", "vhd", "vhdx", "qcow2")


def fenced(page: Path) -> list[str]:
    """The lines of all blocks of code, without their comments, which begin after two spaces."""
    blocks = page.read_text(encoding="utf-8").split("```")[1::2]
    lines = "\n".join(blocks).splitlines()
    return [re.sub(r"\s+# .*", "", line).rstrip() for line in lines]


def commands(page: Path) -> list[list[str]]:
    """Our own commands in the blocks of code of a page, as argument lists."""
    ours = [shlex.split(line) for line in fenced(page) if line.startswith("vdbackup ")]
    return [arguments[1:] for arguments in ours]


def test_the_readme_is_short():
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").split()) < WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_link_leads_somewhere(page: Path):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    there = [link for link in links if link.startswith("https:") or (page.parent / link).exists()]
    assert links == there


def test_every_page_of_the_manual_is_named_by_the_readme():
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert MANUAL
    assert [page.name for page in MANUAL if f"(resources/manual/{page.name})" not in text] == []


def test_every_command_of_the_program_is_shown_in_the_manual():
    shown = {arguments[0] for page in PAGES for arguments in commands(page)}
    there = set(build_parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr,arg-type]
    assert there - shown == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_the_parser_takes_every_command_as_it_stands_there(page: Path):
    for arguments in commands(page):
        build_parser().parse_args([a for a in arguments if a != "..."])


def in_its_place(arguments: list[str], places: dict[str, Path]) -> list[str]:
    return [str(places.get(each, each)) for each in arguments]


def test_the_four_commands_of_the_readme_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    disk = tmp_path / "disk.img"
    demo_disk.create(disk, "what was backed up")
    monkeypatch.chdir(tmp_path)
    places = {"/dev/sdb": disk, "/mnt/backups": tmp_path / "backups"}
    ran = []
    for arguments in commands(CHECKOUT / "README.md"):
        if arguments[0] != "boot":  # which opens QEMU's window; tests/cli/test_boot.py boots
            assert cli.main(in_its_place(arguments, places)) == 0
            ran.append(arguments[0])
    assert ran == ["backup", "list", "restore"]
    assert (tmp_path / "disk-again.img").read_bytes() == disk.read_bytes()


SHOWN_ONLY = {
    "restore -r /mnt/backups latest disk-again.img --delta --overwrite": "needs an older state: "
    "tests/cli/test_restore.py",
    "boot -r /mnt/backups latest": "opens a window of QEMU's, and so do the next three",
    "boot -r /mnt/backups latest --hardware virtio --firmware uefi --memory 4096 --network": "",
    "boot -r /mnt/backups latest --keep": "",
    "boot -r /mnt/backups latest --set web --attach photos": "",
    "restore --files -r /mnt/backups --set etc latest back": (
        "needs a set of chosen files: tests/recovery/test_restore_files.py"
    ),
    "sessions promote ID": "needs a session: tests/cli/test_sessions.py",
    "mount -r /mnt/backups 2 look --background": "stays, as does the next: tests/cli/test_mount.py",
    "umount look": "",
    "bisect -r /mnt/backups --until login:": "needs a point that fails, as does the next: "
    "tests/operations/test_bisect.py",
    "bisect -r /mnt/backups --run ./check-files": "",
    "bisect -r /mnt/backups --run-inside 'systemctl is-active nginx'": "",
    "make-bootable /dev/nvme0n1 --dry-run": "needs a disk: tests/recovery/bootable",
    "rehearse -r /mnt/backups latest --size 500G --hardware nvme --firmware uefi": (
        "boots: tests/operations/test_rehearse.py"
    ),
    "demo": "tells all of the story: tests/test_demo.py",
}
"""Examples that are not run here, and why."""

EXAMPLES = [
    arguments
    for page in (
        CHECKOUT / "resources/manual/commands.md",
        CHECKOUT / "resources/manual/retargeting.md",
    )
    for arguments in commands(page)
    if shlex.join(arguments) not in SHOWN_ONLY
]


@pytest.fixture(scope="module")
def two_points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a disk, its repository of two points, another program's chain, a machine."""
    folder = tmp_path_factory.mktemp("manual")
    demo_disk.create(folder / "disk.img", "at first")
    for text in ("at first", "afterwards"):
        demo_disk.change(folder / "disk.img", text, {"DIARY.TXT": text.encode()})
        assert cli.main(["backup", str(folder / "disk.img"), "-r", str(folder / "backups")]) == 0
    (folder / "vm").mkdir()
    make = ["qemu-img", "convert", "-O", "vmdk", "disk.img", "vm/snapshot-7.vmdk"]
    subprocess.run(make, cwd=folder, check=True)
    for name in ("sda", "sdb"):
        contents = bytes(1 << 20) + f"the disk {name}".encode() * 4096 + bytes(1 << 20)
        (folder / f"{name}.img").write_bytes(contents)
    disks = [str(folder / "sda.img"), str(folder / "sdb.img")]
    assert cli.main(["backup", *disks, "--machine", "web", "-r", str(folder / "machines")]) == 0
    return folder


@pytest.mark.parametrize("arguments", EXAMPLES, ids=shlex.join)
def test_an_example_of_the_manual_does_what_it_says(
    arguments: list[str], two_points: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for folder in ("backups", "vm", "machines"):
        shutil.copytree(two_points / folder, tmp_path / folder, copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path)
    unknown_system = arguments[-1] == "machine.ova"  # which says that it may not boot elsewhere
    (tmp_path / "FOLDER").mkdir()
    places = {"/dev/sda": "sda.img", "/dev/sdb": "sdb.img", "disk.img": "disk.img"}
    places = {name: f"{two_points / image}" for name, image in places.items()}
    arguments = [places.get(each, each) for each in arguments]
    for place, here in {
        "/mnt/backups": "machines" if "--machine" in arguments else "backups",
        "/p1/etc/fstab": "/p1/DIARY.TXT",
        "/p1/etc": "/p1",
        "login:": "afterwards",
        "f*": "diary*",
    }.items():
        arguments = [each.replace(place, here) for each in arguments]
    # of /etc an ordinary user cannot read all
    warned = unknown_system or ("/etc" in arguments and os.geteuid() != 0)
    assert cli.main(arguments) == (3 if warned else 0)


@pytest.mark.parametrize("disk_format", FORMATS)
def test_the_data_come_back_without_us_as_the_readme_says(tmp_path: Path, disk_format: str):
    disk, repository = tmp_path / "disk.img", tmp_path / "backups"
    demo_disk.create(disk, "at first")
    for text in ("at first", "afterwards"):
        demo_disk.change(disk, text, {"DIARY.TXT": text.encode()})
        where = ["-r", str(repository), "--format", disk_format]
        assert cli.main(["backup", str(disk), *where]) == 0
    (line,) = [line for line in fenced(CHECKOUT / "README.md") if f".{disk_format} " in f"{line} "]
    line, _, target = line.partition(" > ")
    command = shlex.split(line)
    command[0] = sevenzip.PROGRAM if command[0] == "7zz" else command[0]
    (folder,) = [each for each in repository.iterdir() if each.is_dir()]
    said = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    got = said if target else (folder / "disk.img").read_bytes()
    assert got == disk.read_bytes()


def test_the_metainfo_has_the_releases_of_the_changelog():
    releases = runpy.run_path(str(CHECKOUT / "packaging" / "releases"))
    metainfo = (CHECKOUT / "resources" / "vdbackup.metainfo.xml").read_text(encoding="utf-8")
    changes = (CHECKOUT / "resources" / "CHANGELOG.md").read_text(encoding="utf-8")
    assert releases["metainfo"](metainfo, changes) == metainfo


def test_a_dated_change_becomes_a_release_once():
    releases = runpy.run_path(str(CHECKOUT / "packaging" / "releases"))
    changes = "# C\n\n## 2 (not released)\n\n- new\n\n## 1 (2026-12-01)\n\n- a < b\n"
    once = releases["metainfo"]("<component>\n</component>\n", changes)
    assert once.count('<release version="1" date="2026-12-01">') == 1
    assert "<li>a &lt; b</li>" in once
    assert "new" not in once
    assert releases["metainfo"](once, changes) == once
