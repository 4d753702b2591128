"""A device that this user may not read is read by what UDisks opens, if it is that device."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.sources.disk_service import DiskService, disk_service
from tests.sources.loops import loop
from tests.sources.ordinary_user import as_an_ordinary_user, open_folder
from vdbackup.errors import SourceNotOpened, SourceNotPermitted, Unauthorized
from vdbackup.sources import udisks
from vdbackup.sources.devices import candidates
from vdbackup.sources.opening import open_source
from vdbackup.sources.reference import SourceRef

SIZE = 1 << 20
_ERROR = "org.freedesktop.UDisks2.Error"
pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def device(stack: ExitStack, tmp_path: Path) -> Path:
    """That only root may read."""
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(SIZE))
    found = stack.enter_context(loop(image))
    before = found.stat().st_mode
    stack.callback(found.chmod, before)
    found.chmod(0o600)
    return found


@pytest.fixture
def service(stack: ExitStack) -> DiskService:
    return stack.enter_context(disk_service(stack.enter_context(open_folder())))


def descriptor(stack: ExitStack, path: Path, flags: int = os.O_RDONLY | os.O_DIRECT) -> int:
    fd = os.open(path, flags)
    stack.callback(os.close, fd)
    return fd


def test_an_ordinary_user_reads_a_device_by_what_it_opens(
    stack: ExitStack, device: Path, service: DiskService, tmp_path: Path
) -> None:
    service.gives = descriptor(stack, device)
    with as_an_ordinary_user(), open_source(SourceRef.of_path(device)) as source:
        found = bytearray(SIZE)
        source.readinto(0, memoryview(found))
    assert found == (tmp_path / "disk.img").read_bytes()
    assert service.asked == [("r", {"flags": ("i", os.O_DIRECT)})]


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        (Path("/dev/zero"), os.O_RDONLY | os.O_DIRECT),
        (None, os.O_RDWR | os.O_DIRECT),
        (None, os.O_RDONLY),
    ],
    ids=["another one", "writable", "cached"],
)
def test_what_is_not_that_device_to_read_by_alone_is_refused(
    stack: ExitStack, device: Path, service: DiskService, path: Path | None, flags: int
) -> None:
    if path is None:
        service.gives = descriptor(stack, device, flags)
    else:
        service.gives = descriptor(stack, path, os.O_RDONLY)
    with pytest.raises(SourceNotOpened, match="opened something else"):
        udisks.opened(device)


def test_another_block_device_is_refused(
    stack: ExitStack, device: Path, service: DiskService, tmp_path: Path
) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(bytes(SIZE))
    service.gives = descriptor(stack, stack.enter_context(loop(other)))
    with pytest.raises(SourceNotOpened, match="opened something else"):
        udisks.opened(device)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (f"{_ERROR}.NotAuthorized", Unauthorized, "polkit refuses it"),
        (f"{_ERROR}.NotAuthorizedDismissed", Unauthorized, "was closed"),
        (f"{_ERROR}.Failed", SourceNotOpened, "cannot open this disk: Not authorized"),
        # nobody is there to be asked: as if it was not there
        (f"{_ERROR}.NotAuthorizedCanObtain", SourceNotPermitted, "You may not read"),
        ("org.freedesktop.DBus.Error.ServiceUnknown", SourceNotPermitted, "You may not read"),
    ],
)
def test_who_is_refused_is_told_why(
    device: Path, service: DiskService, error: str, kind: type[Exception], words: str
) -> None:
    service.gives = error
    with as_an_ordinary_user(), pytest.raises(kind, match=words):
        open_source(SourceRef.of_path(device))


@pytest.mark.parametrize(("kind", "gives"), [("s", "/dev/sda"), ("u", 3), ("b", True)])
def test_a_reply_that_makes_no_sense_is_none(
    device: Path, service: DiskService, kind: str, gives: int | str
) -> None:
    service.kind, service.gives = kind, gives
    assert udisks.opened(device) is None


@pytest.mark.parametrize("known", [[], ["/a", "/b"]])
def test_a_device_that_it_does_not_know_for_sure_is_not_opened(
    device: Path, service: DiskService, known: list[str]
) -> None:
    service.known = known
    assert udisks.opened(device) is None
    assert service.asked == []


def test_it_is_seen_whether_there_is_one(device: Path, service: DiskService) -> None:
    assert udisks.can_be_asked()
    with as_an_ordinary_user():
        assert all(each.readable for each in candidates())


@pytest.mark.parametrize("address", ["disabled:", "unix:path=/nowhere", "tcp:host=x", ""])
def test_without_a_bus_there_is_none(
    device: Path, monkeypatch: pytest.MonkeyPatch, address: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address or f"unix:path={tmp_path}")
    assert not udisks.can_be_asked()
    with as_an_ordinary_user():
        assert not next(each for each in candidates() if each.path == device).readable
    with as_an_ordinary_user(), pytest.raises(SourceNotPermitted):
        open_source(SourceRef.of_path(device))


def _agree_and_say(listening: socket.socket, said: bytes) -> None:
    """Let somebody in as a bus does, say something, and nothing more until they have gone."""
    other, _ = listening.accept()
    with other:
        for reply in (b"OK " + b"0" * 32, b"AGREE_UNIX_FD"):
            other.recv(4096)
            other.sendall(reply + b"\r\n")
        other.sendall(said)
        while other.recv(4096):
            pass


@pytest.mark.parametrize("said", [b"", b"\xff" * 64], ids=["nothing", "nonsense"])
def test_a_bus_that_lets_one_in_and_makes_no_sense_then_is_none(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(udisks, "_SOON", 1.0)
    with open_folder() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "bus"))
        listening.listen()
        thread = threading.Thread(target=_agree_and_say, args=(listening, said), daemon=True)
        thread.start()
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={folder / 'bus'}")
        assert not udisks.can_be_asked()
        thread.join(10)
        assert not thread.is_alive()
