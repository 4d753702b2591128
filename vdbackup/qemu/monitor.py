"""QEMU's monitor (QMP) for callers that block: its event loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, cast

from qemu.qmp import QMPClient, QMPError, Runstate

from vdbackup.errors import MachineFailed
from vdbackup.translation import tr

log = logging.getLogger(__name__)

OnEvent = Callable[[str, Mapping[str, Any]], None]
"""Called with an event's name and data, in the monitor's thread; must not call `execute`."""

_TIME_LIMIT = 30.0
"""Seconds that QEMU may take to answer; it answers at once unless its storage is stuck."""


def tell(
    connection: socket.socket,
    command: str,
    seconds: float = _TIME_LIMIT,
    arguments: dict[str, object] | None = None,
) -> Any:
    """Say one thing to a QEMU that another program watches, and hang up; what it answers.

    Raises RecoveryError where it refuses, or does not answer within `seconds`.
    """

    async def converse() -> Any:
        client = QMPClient()
        await client.connect(connection)
        try:
            return await client.execute(command, arguments)
        finally:
            with contextlib.suppress(EOFError, ConnectionError, QMPError):  # so it ends at "quit"
                await client.disconnect()

    try:
        return asyncio.run(asyncio.wait_for(converse(), seconds))
    except (QMPError, TimeoutError, EOFError, OSError) as error:
        raise MachineFailed(
            tr("The virtual machine does not do what it was told ({command}).", command=command),
            tr("Kill it if it hangs."),
        ) from error


class Monitor:
    """A conversation with one QEMU over a connected socket.

    One thread calls `run`, which returns when QEMU has closed the connection. Any other may call
    `execute`, once `wait_until_ready` has returned.
    """

    def __init__(self, connection: socket.socket, on_event: OnEvent) -> None:
        self._connection = connection
        self._on_event = on_event
        self._ready: Future[None] = Future()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop while `execute` may use it; guarded by the lock."""
        self._client = QMPClient()

    def run(self) -> None:
        """Speak with QEMU until it closes the connection; never raises."""
        asyncio.run(self._converse())

    def wait_until_ready(self) -> None:
        """Return when QEMU answers; raises RecoveryError where it ends instead, or hangs."""
        try:
            self._ready.result(_TIME_LIMIT)
        except (QMPError, TimeoutError) as error:
            raise MachineFailed(
                tr("QEMU could not be started."), tr("The log says more.")
            ) from error

    def execute(self, command: str, **arguments: object) -> Any:
        """What QEMU returns for a command of QMP.

        Raises:
            RecoveryError: QEMU refuses, has ended, or does not answer.
        """
        with self._lock:
            if self._loop is None:
                raise MachineFailed(tr("The virtual machine has ended."))
            answer = asyncio.run_coroutine_threadsafe(
                self._client.execute(command, arguments), self._loop
            )
        try:
            return answer.result(_TIME_LIMIT)
        except (QMPError, TimeoutError) as error:
            answer.cancel()
            reason = str(error) or tr("QEMU does not answer")
            raise MachineFailed(
                tr(
                    "The virtual machine does not do what it was told ({command}): {reason}.",
                    command=command,
                    reason=reason,
                ),
                tr("End it if it hangs."),
            ) from error

    async def _converse(self) -> None:
        try:
            await self._client.connect(self._connection)
        except QMPError as error:
            self._ready.set_exception(error)
            return
        watcher = asyncio.create_task(self._watch())
        with self._lock:
            self._loop = asyncio.get_running_loop()
        self._ready.set_result(None)
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        with self._lock:
            self._loop = None
        await asyncio.sleep(0)  # what other threads have sent before that is a task from here on
        watcher.cancel()
        with contextlib.suppress(EOFError, ConnectionError):  # that is how QEMU ends
            await self._client.disconnect()
        own = asyncio.current_task()
        await asyncio.gather(
            *(task for task in asyncio.all_tasks() if task is not own), return_exceptions=True
        )

    async def _watch(self) -> None:
        """Pass events on; STOP, which does not say why, with the `status` that says it."""
        async for event in self._client.events:
            name = cast(str, event["event"])
            data = cast(dict[str, Any], event.get("data", {}))
            if name == "STOP":
                with contextlib.suppress(QMPError):  # it ends
                    data = cast(dict[str, Any], await self._client.execute("query-status"))
            log.debug("QEMU: %s %s", name, data)
            self._on_event(name, data)
