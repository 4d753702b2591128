"""Files inside a recovery point: listed and extracted as they were put in."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.sources.opened import open_path
from tests.volumes import volumes
from tests.volumes.volumes import MIB, MOMENT, browsing
from vdbackup.backup import capture
from vdbackup.disks.chain import Chain
from vdbackup.errors import RecoveryError
from vdbackup.jobs import Progress, Task
from vdbackup.recovery.browse import Entry, FileBrowser, Kind
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk

Maker = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that were put into every volume."""
    return volumes.sample(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module", params=volumes.MAKERS)
def system(request: pytest.FixtureRequest) -> str:
    """The name of a file system in MAKERS."""
    return str(request.param)


@pytest.fixture(scope="module")
def image(system: str, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of that file system with the files in it."""
    image = tmp_path_factory.mktemp("image") / f"{system}.img"
    volumes.MAKERS[system](tree, image)
    return image


def extract(image: Path, destination: Path, *paths: str) -> tuple[str, ...]:
    with browsing(image) as browser:
        return browser.extract(paths or ("/",), destination, Task())


def made(make: Maker, tree: Path) -> Path:
    """An image beside the tree that is put into it."""
    image = tree.parent / "made.img"
    volumes.touch(tree)
    make(tree, image)
    return image


# -------------------------------------------------------------------------------- every system


def test_every_file_comes_back_as_it_was(image: Path, tree: Path, tmp_path: Path):
    assert extract(image, tmp_path / "out") == ()
    assert volumes.contents(tmp_path / "out") == volumes.contents(tree)


def test_a_volume_is_named_by_its_file_system(system: str, image: Path):
    with browsing(image) as browser:
        (volume,) = browser.volumes()
    assert (volume.number, volume.place.runs) == (0, ((0, image.stat().st_size),))
    assert (volume.filesystem, volume.problem) == (volumes.NAMES[system], "")


def test_a_listing_shows_names_kinds_and_sizes(image: Path, tree: Path):
    with browsing(image) as browser:
        for folder in (tree, tree / "folder", tree / "many"):
            path = f"/{folder.relative_to(tree)}".removesuffix(".")
            shown = [
                (entry.name, entry.path, entry.kind, entry.size)
                for entry in browser.listing(path)
                if entry.name != "lost+found"
            ]
            assert shown == [
                (
                    child.name,
                    f"{path.rstrip('/')}/{child.name}",
                    Kind.FOLDER if child.is_dir() else Kind.FILE,
                    0 if child.is_dir() else child.stat().st_size,
                )
                for child in sorted(folder.iterdir())
            ]


def test_times_of_files_are_listed_and_come_back(system: str, image: Path, tmp_path: Path):
    with browsing(image) as browser:
        (entry,) = [entry for entry in browser.listing() if entry.name == "hello.txt"]
    extract(image, tmp_path, "/hello.txt")
    found = (tmp_path / "hello.txt").stat().st_mtime
    if system == "xfs":  # whose tool gives files the time at which it is run
        assert image.stat().st_mtime - 60 < found <= image.stat().st_mtime
    else:
        assert found == MOMENT
    assert entry.modified == datetime.fromtimestamp(int(found), UTC).isoformat()


def test_holes_stay_holes(image: Path, tmp_path: Path):
    extract(image, tmp_path, "/holes")
    found = (tmp_path / "holes").stat()
    assert found.st_size > 2 * MIB
    assert found.st_blocks * 512 < MIB


def test_a_volume_cut_short_is_refused_in_a_sentence(image: Path, tmp_path: Path):
    cut = tmp_path / "cut.img"
    with image.open("rb") as whole:
        cut.write_bytes(whole.read(300 << 10))
    with browsing(cut) as browser, pytest.raises(RecoveryError, match="cannot be read"):
        browser.listing("/many")


def test_what_does_not_exist_is_said(image: Path):
    with browsing(image) as browser:
        for path in ("/none", "/folder/none", "/hello.txt/none", "/folder/..", "/."):
            with pytest.raises(RecoveryError, match="There is no"):
                browser.listing(path)
        with pytest.raises(RecoveryError, match=r"hello\.txt is not a folder"):
            browser.listing("/hello.txt")


# ------------------------------------------------------------------------- what some have more


@pytest.fixture
def empty_tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    return tree


@pytest.mark.parametrize("system", ["ext4", "ext2", "xfs", "btrfs", "ntfs"])
def test_links_come_back_as_links(system: str, empty_tree: Path, tmp_path: Path):
    targets = {"near": "file", "far": "../../there/it is" if system != "xfs" else "../../there"}
    if system != "ntfs":
        # What does not fit in an inode, mkfs.xfs 6.1 writes without the header that belongs there.
        targets |= {
            "absolute": "/etc/passwd",
            "long": "long/" * (40 if system == "xfs" else 180) + "end",
        }
    for name, target in targets.items():
        (empty_tree / name).symlink_to(target)
    image = made(volumes.MAKERS[system], empty_tree)
    with browsing(image) as browser:
        kinds = {entry.name: entry.kind for entry in browser.listing()}
        assert {name: kinds[name] for name in targets} == dict.fromkeys(targets, Kind.LINK)
        with pytest.raises(RecoveryError, match="near is a link to file"):
            browser.listing("/near")
    extract(image, tmp_path / "out")
    assert volumes.contents(tmp_path / "out") == targets


def test_permissions_come_back_without_set_user_id(empty_tree: Path, tmp_path: Path):
    modes = {"program": 0o4755, "secret": 0o600, "locked": 0o555, "group": 0o2775, "sticky": 0o1777}
    for name in ("program", "secret"):
        (empty_tree / name).write_bytes(b"!")
    for name in ("locked", "group", "sticky"):
        (empty_tree / name).mkdir()
        (empty_tree / name / "file").touch()
    for name, mode in modes.items():
        (empty_tree / name).chmod(mode)
    (warning,) = extract(made(volumes.ext("ext4"), empty_tree), tmp_path / "out")
    assert warning == (
        "Rights of others (set-user-id, set-group-id, capabilities) are left out: of /program."
    )
    out = tmp_path / "out"
    is_root = os.geteuid() == 0  # others have a umask, which is heeded
    found = {name: stat.S_IMODE((out / name).stat().st_mode) for name in modes}
    assert found == {
        "program": 0o755,
        "secret": 0o600,
        "locked": 0o555,
        "group": 0o775 if is_root else 0o755,
        "sticky": 0o1777 if is_root else 0o755,
    }
    assert all((out / name).stat().st_mtime == MOMENT for name in modes)


def test_devices_and_pipes_are_left_out(empty_tree: Path, tmp_path: Path):
    os.mkfifo(empty_tree / "pipe")
    (empty_tree / "file").write_bytes(b"f")
    image = made(volumes.ext("ext4"), empty_tree)
    with browsing(image) as browser:
        kinds = {entry.name: entry.kind for entry in browser.listing()}
    assert kinds["pipe"] == Kind.OTHER
    (warning,) = extract(image, tmp_path / "out")
    assert "/pipe is left out" in warning
    assert volumes.contents(tmp_path / "out") == {"file": b"f"}


def test_small_files_and_folders_are_read_out_of_inodes(empty_tree: Path, tmp_path: Path):
    for length in (0, 1, 59, 60, 61, 100, 150, 200, 5000):
        (empty_tree / f"file-{length}").write_bytes(b"i" * length)
    (empty_tree / "small" / "er").mkdir(parents=True)
    (empty_tree / "larger").mkdir()
    for number in range(6):
        (empty_tree / "larger" / f"number {number}").write_bytes(b"n" * number)
    options = ("-O", "inline_data", "-I", "256")
    image = made(volumes.ext("ext4", *options), empty_tree)
    extract(image, tmp_path / "out")
    assert volumes.contents(tmp_path / "out") == volumes.contents(empty_tree)


def test_names_that_are_no_unicode_come_back(empty_tree: Path, tmp_path: Path):
    name = os.fsdecode(b"caf\xe9")
    (empty_tree / name).write_bytes(b"latin")
    image = made(volumes.ext("ext4"), empty_tree)
    with browsing(image) as browser:
        assert name in [entry.name for entry in browser.listing()]
    extract(image, tmp_path / "out", f"/{name}")
    assert (tmp_path / "out" / name).read_bytes() == b"latin"


def test_small_letters_of_short_fat_names_are_kept(empty_tree: Path, tmp_path: Path):
    names = {"small.txt", "LARGE.TXT", "small.TXT", "LARGE.txt", "a name that is long.txt"}
    for name in names - {"small.TXT", "LARGE.txt"}:
        (empty_tree / name).write_bytes(name.encode())
    (empty_tree / "folder").mkdir()
    for name in ("small.TXT", "LARGE.txt"):
        (empty_tree / "folder" / name).write_bytes(name.encode())
    image = made(volumes.fat(16, 16 * MIB), empty_tree)
    extract(image, tmp_path / "out")
    assert volumes.contents(tmp_path / "out") == volumes.contents(empty_tree)


# ------------------------------------------------------------------------------- the whole disk


def test_a_disk_with_partitions_shows_them_as_folders(tmp_path: Path):
    disk = tmp_path / "disk.img"
    demo_disk.create(disk, "Hello")
    with browsing(disk) as browser:
        assert browser.listing("/") == [Entry("p1", "/p1", Kind.FOLDER, 15 * MIB, None)]
        assert [entry.path for entry in browser.listing("/p1")] == [
            "/p1/LETTERS",
            "/p1/PICTURE.BMP",
            "/p1/README.TXT",
        ]
        assert [entry.name for entry in browser.listing("/p1/LETTERS/")] == [
            "FIRST.TXT",
            "SECOND.TXT",
        ]
        with pytest.raises(RecoveryError, match="There is no /p2"):
            browser.listing("/p2")


def test_partitions_that_cannot_be_read_say_why(tmp_path: Path):
    disk = tmp_path / "disk.img"
    volumes.blank(disk, 64 * MIB)
    volumes.partition(disk, "label: gpt\n" + "size=8M\n" * 5)
    signatures = {0: b"LUKS\xba\xbe", 512: b"LABELONE", 4086: b"SWAPSPACE2", 3: b"-FVE-FS-"}
    with disk.open("r+b") as file:
        for number, (offset, magic) in enumerate(signatures.items()):
            file.seek((1 + 8 * number) * MIB + offset)
            file.write(magic)
    with browsing(disk) as browser:
        found = {volume.name: (volume.filesystem, volume.problem) for volume in browser.volumes()}
        assert found == {
            "p1": ("LUKS", "It is encrypted with LUKS."),
            "p2": (
                "LVM",
                "It is a part of LVM; its logical volumes are listed by their own names.",
            ),
            "p3": ("swap", "It is swap space and holds no files."),
            "p4": ("BitLocker", "It is encrypted with BitLocker."),
            "p5": ("", "No file system that vdbackup knows is on it."),
        }
        assert [entry.name for entry in browser.listing("/")] == ["p1", "p2", "p3", "p4", "p5"]
        with pytest.raises(RecoveryError, match="p1 cannot be read: it is encrypted with LUKS"):
            browser.listing("/p1")


def test_extracting_all_of_a_disk_leaves_out_what_cannot_be_read(tree: Path, tmp_path: Path):
    volume, disk = tmp_path / "volume.img", tmp_path / "disk.img"
    volumes.ext("ext4", size=32 * MIB)(tree, volume)
    volumes.blank(disk, 64 * MIB)
    volumes.partition(disk, "label: dos\nsize=8M,type=82\nsize=32M\n")
    with disk.open("r+b") as file:
        file.seek(9 * MIB)
        file.write(volume.read_bytes())
    warnings = extract(disk, tmp_path / "out")
    assert [warning.partition(":")[0] for warning in warnings] == ["The files of p1 cannot be read"]
    assert volumes.contents(tmp_path / "out" / "p2").keys() - {"lost+found"} == (
        volumes.contents(tree).keys()
    )


def test_files_are_read_through_a_chain_of_layers(tree: Path, tmp_path: Path):
    disk = tmp_path / "disk.img"
    demo_disk.create(disk, "Hello")
    repository = Repository.create(tmp_path / "repository")
    for text in (b"first", b"second" * 1000):
        demo_disk.change(disk, "Hello", {"LETTERS/FIRST.TXT": text})
        with open_path(disk) as source:
            plan = capture.plan(repository, source)
            result = capture.run(plan, Task())
    (backup_set,) = repository.sets()
    with backup_set.open_chain(result.point) as chain:
        assert len(chain.layers) == 2
        FileBrowser(chain).extract(["/p1/LETTERS"], tmp_path / "out", Task())
    assert (tmp_path / "out" / "LETTERS" / "FIRST.TXT").read_bytes() == b"second" * 1000


def test_progress_counts_every_byte_once(image: Path, tree: Path, tmp_path: Path):
    reports: list[Progress] = []
    with browsing(image) as browser:
        browser.extract(["/folder", "/holes"], tmp_path / "out", Task(reports.append))
    files = [path for path in (tree / "folder").rglob("*") if path.is_file()] + [tree / "holes"]
    total = sum(path.stat().st_size for path in files)
    written = [report for report in reports if report.phase == "Extracting"]
    assert {report.total for report in written} == {total}
    done = [report.done for report in written]
    assert done == sorted(set(done))
    assert done[-1] == total


def test_a_chain_stays_open_for_whoever_opened_it(image: Path):
    with Chain.open(image, "raw") as chain:
        assert FileBrowser(chain).listing() == FileBrowser(chain).listing()
