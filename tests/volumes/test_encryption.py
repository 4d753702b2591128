"""What LUKS and BitLocker have encrypted is read by whoever has the key, and by nobody else."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guests import lvm
from tests.oracles import libbde
from tests.volumes import bitlocker, luks, volumes
from tests.volumes.volumes import MIB, browsing
from vdbackup.errors import GuestUnreadable, NotInPoint, RecoveryError, WrongKey
from vdbackup.jobs import Task
from vdbackup.volumes import encryption
from vdbackup.volumes.keys import Keys

KEY = "größer als gedacht".encode()
RECOVERY = "-".join(f"{number * 11:06}" for number in range(1000, 9000, 1000))

Maker = Callable[[Path, Path], None]
MAKERS: dict[str, Maker] = {
    "luks2-argon2id-4096": lambda plain, image: luks.luks2(plain, image, KEY, *luks.ARGON),
    "luks2-pbkdf2-512": lambda plain, image: luks.luks2(plain, image, KEY, *luks.PBKDF2),
    "luks1": lambda plain, image: luks.luks1(plain, image, KEY),
    "bitlocker": lambda plain, image: bitlocker.encrypt(plain, image, passphrase=KEY.decode()),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return volumes.sample(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def plain(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with files that nobody has encrypted; metadata of BitLocker have room in it."""
    image = tmp_path_factory.mktemp("plain") / "plain.img"
    volumes.blank(image, 40 * MIB)
    volumes.run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree, image)
    return image


@pytest.fixture(scope="module", params=MAKERS)
def encrypted(
    request: pytest.FixtureRequest, plain: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    image = tmp_path_factory.mktemp("encrypted") / f"{request.param}.img"
    MAKERS[request.param](plain, image)
    return image


def content(image: Path, *secrets: bytes) -> bytes:
    """All that a volume holds."""
    kind = "BitLocker" if image.name.startswith("bitlocker") else "LUKS"
    with image.open("rb") as stream:
        disk = encryption.unlock(kind, stream, secrets)
        found = bytearray(disk.size)
        disk.readinto(0, memoryview(found))
    return bytes(found)


def test_what_is_encrypted_is_extracted_with_its_key(encrypted: Path, tree: Path, tmp_path: Path):
    with browsing(encrypted) as browser:
        (volume,) = browser.volumes()
        assert volume.is_locked
        assert volume.problem.startswith("It is encrypted with ")
        with pytest.raises(GuestUnreadable) as caught:
            browser.listing("/")
        assert caught.value.remedy is not None
        assert browser.unlock(
            Keys(
                (
                    b"another",
                    KEY,
                )
            )
        ) == [""]
        (volume,) = browser.volumes()
        assert (volume.filesystem, volume.is_locked) == ("ext4", False)
        assert browser.extract(["/"], tmp_path / "got", Task()) == ()
    assert volumes.contents(tmp_path / "got") == volumes.contents(tree)


def test_every_byte_is_as_it_was(encrypted: Path, plain: Path):
    found, wanted = content(encrypted, KEY), plain.read_bytes()
    assert len(found) >= len(wanted)
    assert found[: len(wanted)] == wanted


def test_a_wrong_key_opens_nothing_and_says_so(encrypted: Path):
    with browsing(encrypted) as browser:
        with pytest.raises(WrongKey):
            browser.unlock(
                Keys(
                    (
                        b"wrong",
                        b"\xff\xfe",
                        b"",
                    )
                )
            )
        assert [volume.is_locked for volume in browser.volumes()] == [True]


def test_the_recovery_password_opens_bitlocker_as_another_library_has_it(
    tree: Path, tmp_path: Path
):
    plain, image = tmp_path / "plain.img", tmp_path / "bitlocker.img"
    volumes.ntfs(size=40 * MIB)(tree, plain)
    bitlocker.encrypt(plain, image, recovery=RECOVERY)
    libbde.assert_holds(image, RECOVERY, plain.read_bytes())
    assert content(image, f" {RECOVERY}\n".encode()) == plain.read_bytes()
    with browsing(image) as browser:
        browser.unlock(Keys((RECOVERY.encode(),)))
        browser.extract(["/"], tmp_path / "got", Task())
    assert volumes.contents(tmp_path / "got") == volumes.contents(tree)


def test_a_suspended_bitlocker_needs_no_key(plain: Path, tmp_path: Path):
    image = tmp_path / "bitlocker.img"
    bitlocker.encrypt(plain, image, recovery=RECOVERY, suspended=True)
    assert content(image) == plain.read_bytes()


def logical(plain: Path, image: Path, group: str) -> None:
    """LVM with the volume in it."""
    size = lvm.DATA_OFFSET + plain.stat().st_size
    with image.open("xb") as file:
        file.write(lvm.head(size, group, "root"))
        file.seek(lvm.DATA_OFFSET)
        file.write(plain.read_bytes())


def test_logical_volumes_in_an_encrypted_partition_are_shown_by_their_names(
    plain: Path, tree: Path, tmp_path: Path
):
    inner, outer, disk = tmp_path / "inner", tmp_path / "luks", tmp_path / "disk"
    logical(plain, inner, "vg")
    luks.luks1(inner, outer, KEY)
    size = outer.stat().st_size
    volumes.blank(disk, size + 64 * MIB)
    script = f"label: gpt\nstart=2048, size={40 * MIB // 512}\nsize={size // 512}\n"
    volumes.partition(disk, script)
    with disk.open("r+b") as file:
        file.seek(MIB)
        file.write(plain.read_bytes())
        file.seek(41 * MIB)
        file.write(outer.read_bytes())
    with browsing(disk) as browser:
        assert [entry.name for entry in browser.listing("/")] == ["p1", "p2"]
        assert browser.unlock(Keys((KEY,))) == ["vg-root"]
        assert [entry.name for entry in browser.listing("/")] == ["p1", "p2", "vg-root"]
        problems = {each.name: each.problem for each in browser.volumes()}
        assert problems == {
            "p1": "",
            "p2": "It is encrypted; its volumes are listed by their own names.",
            "vg-root": "",
        }
        for name in ("p1", "vg-root"):
            browser.extract([f"/{name}"], tmp_path / "got", Task())
            assert volumes.contents(tmp_path / "got" / name) == volumes.contents(tree)
        with pytest.raises(NotInPoint):
            browser.unlock(Keys((KEY,)))


def test_a_whole_disk_of_encrypted_lvm_shows_its_volumes_alone(plain: Path, tmp_path: Path):
    logical(plain, tmp_path / "inner", "vg")
    luks.luks1(tmp_path / "inner", tmp_path / "disk", KEY)
    with browsing(tmp_path / "disk") as browser:
        assert browser.unlock(Keys((KEY,))) == ["vg-root"]
        assert [entry.name for entry in browser.listing("/")] == ["vg-root"]
        assert "hello.txt" in [entry.name for entry in browser.listing("/vg-root")]


def test_the_volume_that_a_key_opens_is_read_though_it_opens_no_other(plain: Path, tmp_path: Path):
    luks.luks1(plain, tmp_path / "one", b"one")
    luks.luks1(plain, tmp_path / "two", b"two")
    size = (tmp_path / "one").stat().st_size
    disk = tmp_path / "disk"
    volumes.blank(disk, 2 * size + 4 * MIB)
    volumes.partition(disk, f"label: gpt\nsize={size // 512}\nsize={size // 512}\n")
    with disk.open("r+b") as file:
        for number, name in ((0, "one"), (1, "two")):
            file.seek(MIB + number * -(-size // MIB) * MIB)
            file.write((tmp_path / name).read_bytes())
    with browsing(disk) as browser:
        assert browser.unlock(Keys((b"two",))) == ["p2"]
        assert [each.is_locked for each in browser.volumes()] == [True, False]


# -------------------------------------------------------------------- headers that are hostile


@pytest.fixture(scope="module")
def header(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The first MiB of a LUKS2 volume."""
    image = tmp_path_factory.mktemp("header") / "luks.img"
    luks.luks2(plain, image, KEY, *luks.ARGON)
    return image.read_bytes()[:MIB]


def changed(header: bytes, key: str, value: int, of: str) -> bytes:
    """A LUKS2 header whose only slot asks for something else, in both copies."""
    found = bytearray(header)
    for at in (4096, 16384 + 4096):
        text = bytes(found[at : at + 12288]).rstrip(b"\0")
        data = json.loads(text)
        slot = data["keyslots"]["0"]
        (data["digests"]["0"] if of == "digest" else slot[of] if of else slot)[key] = value
        found[at : at + 12288] = json.dumps(data).encode().ljust(12288, b"\0")
    return bytes(found)


@pytest.mark.parametrize(
    ("of", "key", "value"),
    [
        ("kdf", "memory", 1 << 40),
        ("kdf", "time", 1 << 31),
        ("kdf", "time", 9_000),  # of 32 MiB: minutes, and that for each key and slot
        ("kdf", "cpus", 4096),
        ("digest", "iterations", 1 << 30),
        ("kdf", "memory", -1),
        ("", "key_size", 1 << 40),
        ("af", "stripes", 1 << 40),
    ],
)
def test_a_header_that_asks_for_the_whole_computer_is_not_obeyed(
    header: bytes, tmp_path: Path, of: str, key: str, value: int
):
    (tmp_path / "luks").write_bytes(changed(header, key, value, of))
    with pytest.raises(GuestUnreadable, match="none of its keys"):
        content(tmp_path / "luks", KEY)


@pytest.mark.parametrize("at", [8, 16384 + 8])
def test_a_header_that_says_that_it_is_endless_is_damaged(header: bytes, tmp_path: Path, at: int):
    data = bytearray(header)
    data[at : at + 8] = struct.pack(">Q", 1 << 60)
    (tmp_path / "luks").write_bytes(data)
    with pytest.raises(GuestUnreadable, match="header is damaged"):
        content(tmp_path / "luks", KEY)


def test_a_word_is_tried_at_no_more_than_bitlocker_can_mean(plain: Path, tmp_path: Path):
    image = tmp_path / "bitlocker.img"
    bitlocker.encrypt(plain, image, passphrase="one", protectors=17)
    with pytest.raises(GuestUnreadable, match="header is damaged"):
        content(image, b"another")


def test_no_damage_to_a_header_is_worse_than_unreadable(plain: Path, header: bytes, tmp_path: Path):
    bitlocker.encrypt(plain, tmp_path / "bitlocker", recovery=RECOVERY)
    whole = (tmp_path / "bitlocker").read_bytes()
    noise = random.Random(11)
    for number in range(60):
        kind, data, areas = (
            ("luks", header, [(0, 20480)])
            if number % 2
            else ("bitlocker", whole, [(0, 512), *((at, 512) for at in bitlocker.METADATA)])
        )
        found = bytearray(data)
        for start, length in areas:
            for _ in range(noise.choice((1, 4, 64))):
                found[start + noise.randrange(length)] = noise.randrange(256)
        image = tmp_path / f"{kind}-{number}"
        image.write_bytes(found[: noise.choice((len(found), 4096, MIB))])
        try:
            content(image, b"no key")
        except RecoveryError:
            continue
        finally:
            image.unlink()
        pytest.fail(f"{kind} {number} was opened")
