"""The listener: one connection of an executor's process that hears of work and makes the claims look at once.

A notification is only a hint. Without any, claims find everything by polling.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING
from uuid import uuid4

from dbdurable._core.control import ConnectionLost, Transient
from dbdurable._executor.notify import ANY_QUEUE, queues_of
from dbdurable._executor.runtime import boottime
from dbdurable._io.drive import SyncDriver
from dbdurable._io.listen import Ear, channel_of
from dbdurable._protocol.effects import query
from dbdurable._sql.wake import NOTIFY
from dbdurable.errors import DurableError

if TYPE_CHECKING:
    from dbdurable._executor.executor import Executor

logger = logging.getLogger("dbdurable")

PROBE_S = 2.0
"""A notification to itself that takes longer will never come: a pooler swallows it."""

RECONNECT_S_FIRST, RECONNECT_S_MAX = 0.1, 5.0


class Listener:
    """Listens on the channel of the schema, on a thread of its own; reconnects for as long as it is open."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._database = executor.runtime.database
        self._channel = channel_of(self._database.schema)
        self._ear = Ear()
        self._proven = False
        self.listening = False
        """Whether a notification would be heard now."""
        self._random = random.Random()  # noqa: S311  (spreads reconnects, guards nothing)
        self._thread = threading.Thread(target=self._run, name="dbdurable-listener", daemon=True)

    def start(self) -> None:
        """Begins to listen, unless the settings say never."""
        if self._url() is not None:
            self._thread.start()

    def stop(self) -> None:
        """Listens no more."""
        self._ear.stop()
        if self._thread.is_alive():
            self._thread.join(5.0)  # a connection that is just being made has 10 s of its own
        if not self._thread.is_alive():
            self._ear.end()

    def _url(self) -> str | None:
        return self._executor.runtime.settings.listen_url_for(self._database.url)

    def _run(self) -> None:
        delay_s = RECONNECT_S_FIRST
        while not self._ear.stopped:
            try:
                self._open()
                if self._ear.stopped:
                    break
                if not self._proven:
                    logger.info("no notification comes through (a pooler in transaction mode?): polling mode")
                    self._ear.give_up()
                    break
                delay_s = RECONNECT_S_FIRST
                self._listen()
            except (ConnectionLost, Transient, DurableError) as error:
                level = logging.WARNING if delay_s == RECONNECT_S_FIRST else logging.DEBUG
                logger.log(level, "cannot listen for wake-ups, polling until that works again: %s", error)
            except Exception:
                logger.exception("listening failed")
            self.listening = False
            self._ear.close()
            self._ear.pause(delay_s * self._random.uniform(0.5, 1.5))
            delay_s = min(RECONNECT_S_MAX, delay_s * 2)
        self.listening = False
        self._ear.close()

    def _open(self) -> None:
        url = self._url()
        assert url is not None
        self._ear.open(url, self._channel)
        if not self._proven:
            self._proven = self._probe()
        if self._proven:
            self._ear.keep_open()
            self._executor.hint()  # whatever came while nobody listened
            self.listening = True

    def _probe(self) -> bool:
        """Whether a notification, sent over another connection, arrives here."""
        token = f"probe {uuid4().hex}"
        if not SyncDriver(self._database).run(query(NOTIFY, self._channel, token)):
            raise Transient("the server's queue of notifications is half full: a session that listens does not read")
        end = boottime() + PROBE_S
        while not self._ear.stopped and (left_s := end - boottime()) > 0:
            if token in self._ear.hear(left_s):
                return True
        return False

    def _listen(self) -> None:
        while not self._ear.stopped:
            payloads = self._ear.hear()
            mine = {ANY_QUEUE, *self._executor.queues}
            if any(not mine.isdisjoint(queues_of(payload)) for payload in payloads):
                self._executor.hint()
