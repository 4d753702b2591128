"""A scheduled backup waits until the network is the right one, and nobody presents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.notified import Shown, desktop
from tests.operations.schedules.test_run import dated
from vdbackup.jobs import Task
from vdbackup.operations.machines import Machines
from vdbackup.operations.schedules import arrange, conditions, run
from vdbackup.operations.schedules.store import Outcome, Schedule, Store

SERVICES = (
    "org.freedesktop.NetworkManager",
    "org.freedesktop.login1",
    "org.gnome.SessionManager",
    "org.freedesktop.PowerManagement.Inhibit",
)
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask
eth0\t0000FEA9\t00000000\t0001\t0\t0\t0\t0000FFFF
wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000
"""


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    """What the computer's services and the desktop say."""
    with desktop(tmp_path, *SERVICES) as (address, shown):
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        yield shown


@pytest.fixture(autouse=True)
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "routes"
    path.write_text(ROUTES)
    monkeypatch.setattr(conditions, "ROUTES", path)
    return path


def test_a_network_is_called_as_its_connection_its_gateway_or_its_interface(
    services: Shown,
) -> None:
    services.answers["ActiveConnections"] = ("ao", ["/org/freedesktop/NetworkManager/1"])
    services.answers["Id"] = ("s", "Home")
    assert conditions.networks() == {"Home", "192.168.2.1", "wlan0"}


def test_without_a_network_manager_the_way_out_names_it(routes: Path) -> None:
    assert conditions.networks() == {"192.168.2.1", "wlan0"}
    assert not conditions.is_metered()
    routes.unlink()
    assert conditions.networks() == set()


@pytest.mark.parametrize(("said", "metered"), [(0, False), (1, True), (2, False), (3, True)])
def test_a_metered_network_is_one(services: Shown, said: int, metered: bool) -> None:
    services.answers["Metered"] = ("u", said)
    assert conditions.is_metered() is metered


@pytest.mark.parametrize(
    ("name", "kind", "yes", "no"),
    [
        ("BlockInhibited", "s", "shutdown:idle", "shutdown:sleep"),
        ("IsInhibited", "b", True, False),
        ("HasInhibit", "b", True, False),
    ],
)
def test_who_keeps_the_screen_on_presents(
    services: Shown, name: str, kind: str, yes: object, no: object
) -> None:
    assert not conditions.is_presenting()
    services.answers[name] = (kind, no)
    assert not conditions.is_presenting()
    services.answers[name] = (kind, yes)
    assert conditions.is_presenting()


def test_where_nobody_can_be_asked_nobody_presents() -> None:
    assert not conditions.is_presenting()


def test_a_backup_that_may_not_be_now_is_made_once_it_may(
    lab: Lab, services: Shown, tmp_path: Path
) -> None:
    store = Store(tmp_path / "config" / "schedules", tmp_path / "data" / "schedules")
    lab.backup()
    dated(lab, datetime(2020, 1, 1, tzinfo=UTC))
    lab.poke(0, noise(65536, 5))
    schedule = Schedule(lab.repository.path, "disk", "daily", networks=("Office",))

    def ran(now: Schedule) -> run.RunResult:
        return run.run(store, now, Machines(lab.folder / "sessions", None), Task())

    away = ran(schedule)
    assert away.run.outcome is Outcome.SKIPPED
    assert away.run.sentence.startswith("Not now: this computer is on none of the networks")
    services.answers["HasInhibit"] = ("b", True)
    there = replace(schedule, networks=("wlan0",), not_presenting=True)
    assert ran(there).run.sentence.startswith("Not now: somebody is presenting")
    services.answers["HasInhibit"] = ("b", False)
    assert ran(there).run.outcome is Outcome.DONE
    assert ran(schedule).run.sentence.startswith("Not due")


def test_such_a_schedule_says_so_and_looks_again(lab: Lab, tmp_path: Path) -> None:
    store = Store(tmp_path / "config" / "schedules", tmp_path / "data" / "schedules")
    lab.backup()
    usual = Schedule(lab.repository.path, "disk", "daily")
    wanted = replace(usual, networks=("Home", "Office"), not_metered=True, not_presenting=True)
    plan = arrange.plan(store, wanted)
    assert plan.summary.endswith(
        " Only on Home, Office. Not on a metered network. Not while somebody presents."
    )
    (timer,) = [text for name, text in plan.texts.items() if name.endswith(".timer")]
    assert "OnUnitInactiveSec=15min" in timer
    assert "OnUnitInactiveSec" not in "".join(arrange.plan(store, usual).texts.values())
    store.save(wanted)
    assert store.get(lab.repository.path, "disk") == wanted
