"""What is encrypted is looked through with its key, and all is as where nothing is encrypted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.volumes import luks, volumes
from tests.volumes.volumes import MIB
from vdbackup.backup import capture
from vdbackup.errors import NotInPoint, WrongKey
from vdbackup.jobs import Task
from vdbackup.operations import backup
from vdbackup.recovery.history.differences import differences
from vdbackup.recovery.history.find import Pattern, find
from vdbackup.recovery.history.owners import sizes
from vdbackup.recovery.history.versions import versions
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef
from vdbackup.volumes.keys import Keys

KEY, OTHER = b"one key", b"another key"


def partitioned(image: Path, *parts: Path) -> None:
    """A disk with these partitions, each at a multiple of 64 MiB, written into its file."""
    at = [MIB + number * 64 * MIB for number in range(len(parts))]
    if not image.exists():
        volumes.blank(image, (1 + len(parts)) * 64 * MIB)
        lines = (
            f"start={start // 512}, size={part.stat().st_size // 512}\n"
            for start, part in zip(at, parts, strict=True)
        )
        volumes.partition(image, "label: gpt\n" + "".join(lines))
    with image.open("r+b") as file:
        for start, part in zip(at, parts, strict=True):
            file.seek(start)
            file.write(part.read_bytes())


def written_into(plain: Path, image: Path, key: bytes) -> None:
    """Write a volume into an encrypted one, which keeps its key: what is the same stays so."""
    secret = plain.with_suffix(".secret")
    secret.write_bytes(key)
    subprocess.run(
        ["qemu-img", "convert", "-n", "-f", "raw", "--object", f"secret,id=key,file={secret}",
         "--target-image-opts", str(plain),
         f"driver=luks,key-secret=key,file.driver=file,file.filename={image}"],
        check=True,
    )  # fmt: skip


class Twins:
    """The same story of the same disk, once encrypted in both partitions, once in none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repositories: dict[str, tuple[Repository, str, list[str]]] = {}
        self._volume = folder / "volume"
        tree = folder / "tree"
        (tree / "docs").mkdir(parents=True)
        (tree / "docs" / "letter.txt").write_bytes(b"Dear all\n" * 20_000)
        (tree / "docs" / "same.txt").write_bytes(b"as it was\n" * 20_000)
        volumes.blank(self._volume, 24 * MIB)
        volumes.run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, self._volume)
        for name, key in (("p1", KEY), ("p2", OTHER)):
            luks.luks1(self._volume, folder / name, key)
        self.back_up()
        (folder / "longer").write_bytes(b"Dear everybody\n" * 40_000)
        for request in (
            "rm /docs/letter.txt",
            f"write {folder / 'longer'} /docs/letter.txt",
            f"write {folder / 'longer'} /docs/new.txt",
        ):
            volumes.run("debugfs", "-w", "-R", request, self._volume)
        for name, key in (("p1", KEY), ("p2", OTHER)):
            written_into(self._volume, folder / name, key)
        self.back_up()
        self.back_up()  # and nothing has changed

    def back_up(self) -> None:
        for kind, parts in (
            ("plain", (self._volume, self._volume)),
            ("encrypted", (self.folder / "p1", self.folder / "p2")),
        ):
            image = self.folder / f"{kind}.img"
            partitioned(image, *parts)
            kept = self.folder / f"{kind}-kept"
            request = backup.BackupRequest(SourceRef.of_path(image), kept)
            with backup.planned(request) as plan:
                point = capture.run(plan, Task()).point
            _, _, ids = self.repositories.get(kind, (None, "", []))
            self.repositories[kind] = Repository.open(kept), plan.set_name, [*ids, point.id]

    @property
    def plain(self) -> tuple[Repository, str, list[str]]:
        return self.repositories["plain"]

    @property
    def encrypted(self) -> tuple[Repository, str, list[str]]:
        return self.repositories["encrypted"]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return Twins(tmp_path_factory.mktemp("twins"))


def both() -> Keys:
    return Keys(of_one=(("p1", KEY), ("p2", OTHER)))


def test_the_same_files_are_found(twins: Twins, tmp_path: Path):
    said = []
    for (repository, name, _), keys in ((twins.plain, None), (twins.encrypted, both())):
        found = find(repository, name, Pattern("*.txt"), tmp_path / "index", Task(), keys)
        assert found.warnings == ()
        said.append(
            [
                (each.path, each.name, [point.sequence for point in each.points])
                for each in found.found
            ]
        )
    assert said[0] == said[1]
    assert {path for path, _, _ in said[0]} >= {"/p1/docs/new.txt", "/p2/docs/new.txt"}


def test_no_name_that_lies_enciphered_is_written_down(twins: Twins, tmp_path: Path):
    repository, name, _ = twins.encrypted
    find(repository, name, Pattern("*.txt"), tmp_path / "index", Task(), both())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/p1/docs/letter.txt", "/p2/docs/same.txt", "/p2/docs/new.txt"])
def test_a_file_has_the_same_versions(twins: Twins, path: str):
    said = []
    for (repository, name, _), keys in ((twins.plain, None), (twins.encrypted, both())):
        found = versions(repository, name, path, Task(), keys)
        assert (found.warnings, found.is_locked) == ((), False)
        said.append(
            [
                (each.stat and each.stat.size, [point.sequence for point in each.points])
                for each in found.versions
            ]
        )
        assert found.read == 2  # nothing has changed in the third
    assert said[0] == said[1]


def test_the_same_files_differ_and_in_as_many_bytes(twins: Twins):
    said = []
    for (repository, name, ids), keys in ((twins.plain, None), (twins.encrypted, both())):
        found = differences(repository, name, (ids[0], ids[1]), "/", Task(), keys)
        assert found.warnings == ()
        said.append([(each.path, each.what, each.sizes, each.changed) for each in found.files])
    assert said[0] == said[1]
    assert [path for path, *_ in said[0] if path.endswith(".txt")] == [
        f"/{part}/docs/{name}.txt" for part in ("p1", "p2") for name in ("letter", "new")
    ]


def test_the_same_bytes_are_whose_they_are(twins: Twins):
    said = []
    for (repository, name, ids), keys in ((twins.plain, None), (twins.encrypted, both())):
        found = sizes(repository, name, ids[1], "/", Task(), keys)
        assert (found.warnings, found.is_locked) == ((), False)
        said.append([(each.path, each.bytes) for each in found.shares])
        free = sum(count for what, count in found.others if what.startswith("free space"))
        assert sum(count for _, count in found.others) == found.changed - found.shares[0].bytes * 2
        assert free < found.changed
    assert said[0] == said[1]
    assert {path for path, _ in said[0]} >= {"/p1/docs/new.txt", "/p2/docs/new.txt"}


def test_one_key_opens_one_of_two_and_the_other_is_said_to_be_closed(twins: Twins):
    repository, name, ids = twins.encrypted
    found = differences(repository, name, (ids[0], ids[1]), "/", Task(), Keys((KEY,)))
    assert {each.path.split("/")[1] for each in found.files} == {"p1"}
    assert found.is_locked
    assert any("p2" in each and "LUKS" in each for each in found.warnings)


def test_what_was_opened_once_is_opened_again_without_hashing(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
):
    from dissect.fve.luks.luks import LUKS

    hashed = []
    unlock = LUKS.unlock_with_passphrase

    def counted(volume: LUKS, secret: bytes, slot: int | None = None) -> None:
        hashed.append(secret)
        unlock(volume, secret, slot)

    monkeypatch.setattr(LUKS, "unlock_with_passphrase", counted)
    repository, name, _ = twins.encrypted
    versions(repository, name, "/p1/docs/letter.txt", Task(), both())
    assert hashed == [KEY, OTHER]


def test_a_key_that_opens_nothing_is_wrong(twins: Twins):
    repository, name, ids = twins.encrypted
    wrong = Keys((b"no key",))
    with pytest.raises(WrongKey):
        find(repository, name, Pattern("*"), None, Task(), wrong)
    with pytest.raises(WrongKey):
        versions(repository, name, "/p1/docs/letter.txt", Task(), wrong)
    with pytest.raises(WrongKey):
        differences(repository, name, (ids[0], ids[1]), "/", Task(), wrong)
    with pytest.raises(WrongKey):
        sizes(repository, name, ids[1], "/", Task(), wrong)


def test_a_key_for_a_volume_that_is_none_says_which_there_are(twins: Twins):
    repository, name, ids = twins.encrypted
    with pytest.raises(NotInPoint, match="no encrypted volume p7") as caught:
        differences(repository, name, (ids[0], ids[1]), "/", Task(), Keys(of_one=(("p7", KEY),)))
    assert "p1, p2" in caught.value.advice


def test_a_search_passes_by_that_nothing_of_a_set_is_encrypted(twins: Twins):
    repository, name, _ = twins.plain
    assert find(repository, name, Pattern("new.txt"), None, Task(), Keys((KEY,))).found
