"""A guest's agent runs a program; whatever a guest writes instead, nobody waits for it for ever."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from vdbackup.errors import Cancelled
from vdbackup.jobs import CancelToken
from vdbackup.qemu import guest_agent
from vdbackup.qemu.guest_agent import AgentChannel, AgentFailed, Ran

Answer = Callable[[dict[str, Any]], bytes]


def line(**what: Any) -> bytes:
    return json.dumps(what).encode() + b"\n"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@contextmanager
def agent(answer: Answer) -> Iterator[AgentChannel]:
    """A channel at whose other end each command is answered so; no answer at all is b""."""
    with AgentChannel() as channel:
        theirs = channel.guests_end.dup()

        def serve() -> None:
            with suppress(OSError), theirs, theirs.makefile("rb") as asked:
                for each in asked:
                    theirs.sendall(answer(json.loads(each)))

        thread = threading.Thread(target=serve)
        thread.start()
        yield channel
    thread.join()


def well_behaved(status: dict[str, Any], asked: list[dict[str, Any]] | None = None) -> Answer:
    """What qemu-ga answers; the process has ended when it is asked about for the third time."""
    looks = iter(range(100))

    def answer(command: dict[str, Any]) -> bytes:
        if asked is not None:
            asked.append(command)
        match command["execute"]:
            case "guest-ping":
                return line(**{"return": {}})
            case "guest-sync":
                return line(**{"return": command["arguments"]["id"]})
            case "guest-exec":
                return line(**{"return": {"pid": 77}})
            case _:
                return line(**{"return": status if next(looks) > 1 else {"exited": False}})

    return answer


def nothing() -> None:
    """Goes on."""


def test_a_program_runs_and_says_how_it_ended() -> None:
    asked: list[dict[str, Any]] = []
    ended = {"exited": True, "exitcode": 3, "out-data": encoded("inactive\n"), "err-data": ""}
    with agent(well_behaved(ended, asked)) as channel:
        while not channel.answers():
            pass
        assert channel.run(["systemctl", "is-active", "nginx"], 10, nothing) == Ran(3, "inactive\n")
    (started,) = (each["arguments"] for each in asked if each["execute"] == "guest-exec")
    assert (started["path"], started["arg"]) == ("systemctl", ["is-active", "nginx"])
    assert {each["arguments"]["pid"] for each in asked if each["execute"].endswith("status")} == {
        77
    }


def test_a_program_that_a_signal_has_ended_has_no_status() -> None:
    with agent(well_behaved({"exited": True, "signal": 9})) as channel:
        assert channel.run(["anything"], 10, nothing) == Ran(None, "")


def test_a_program_that_goes_on_is_left_alone_after_its_time() -> None:
    with agent(well_behaved({"exited": False})) as channel:
        assert channel.run(["sleep", "1000"], 0.5, nothing) is None


def test_what_the_agent_refuses_is_said_in_its_words() -> None:
    def answer(command: dict[str, Any]) -> bytes:
        if command["execute"] == "guest-exec":
            what = {"class": "CommandNotFound", "desc": "The command guest-exec has been disabled"}
            return line(error=what)
        return well_behaved({})(command)

    with agent(answer) as channel, pytest.raises(AgentFailed, match="guest-exec has been disabled"):
        channel.run(["true"], 10, nothing)


@pytest.mark.parametrize(
    "answers",
    [
        b"",
        b"[1, 2]\n",
        b"\xff\xfe no JSON\n",
        line(**{"return": None}),
        line(error=17),
        b"[" * 100_000 + b"\n",
        b"{}\n" * 60_000,
    ],
    ids=["nothing", "no object", "no text", "no number", "no error", "too deep", "a flood"],
)
def test_what_is_no_answer_is_not_waited_for_for_ever(
    answers: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_agent, "_ANSWERS_WITHIN", 0.4)
    with agent(lambda _command: answers) as channel, pytest.raises(AgentFailed, match="not answer"):
        channel.run(["true"], 10, nothing)


def test_what_the_agent_says_steers_no_terminal() -> None:
    def answer(command: dict[str, Any]) -> bytes:
        if command["execute"] == "guest-exec":
            return line(error={"desc": "\x1b[2Jall is well"})
        return well_behaved({})(command)

    with agent(answer) as channel, pytest.raises(AgentFailed, match=r"^\\x1b\[2Jall is well$"):
        channel.run(["true"], 10, nothing)


def test_a_guest_that_writes_without_end_is_not_listened_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guest_agent, "_MAX_LINE", 1 << 18)
    with (
        agent(lambda _command: b"x" * (1 << 20)) as channel,
        pytest.raises(AgentFailed, match="more than can be taken"),
    ):
        channel.run(["true"], 10, nothing)


def test_a_guest_that_answers_another_question_again_and_again_is_not_listened_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guest_agent, "_ANSWERS_WITHIN", 0.4)

    def answer(_command: dict[str, Any]) -> bytes:
        return line(**{"return": {}}) * 2000

    with agent(answer) as channel, pytest.raises(AgentFailed, match="not answer"):
        channel.run(["true"], 10, nothing)


def test_a_machine_that_ends_meanwhile_is_said() -> None:
    with AgentChannel() as channel:
        channel.guests_end.shutdown(2)
        with pytest.raises(AgentFailed):
            channel.run(["true"], 10, nothing)


def test_a_cancel_ends_the_wait() -> None:
    cancel = CancelToken()
    cancel.cancel()
    with agent(lambda _command: b"") as channel, pytest.raises(Cancelled):
        channel.run(["true"], 10, cancel.check)
