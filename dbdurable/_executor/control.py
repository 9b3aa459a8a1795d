"""The control thread: claims while there are free slots, and does the upkeep on the way."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Collection
from itertools import islice
from typing import TYPE_CHECKING

from dbdurable._core.control import ConnectionLost, Transient
from dbdurable._executor.claims import Claims, Taken
from dbdurable._executor.runtime import boottime
from dbdurable._executor.timers import Timers
from dbdurable._executor.upkeep import Upkeep
from dbdurable._io.drive import SyncDriver
from dbdurable._protocol.effects import Query, flight
from dbdurable._sql.claim import CLAIM_PLAN
from dbdurable._sql.message import WAKE_ENDED
from dbdurable.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from dbdurable._executor.executor import Executor
    from dbdurable._protocol.frame import WorkflowFrame

logger = logging.getLogger("dbdurable")

POLL_S_FIRST = 0.02
"""The pause after a look that found something; it grows while nothing is found."""

POLL_S_HEARD = 0.25
"""The first pause after a look that found nothing, where starts are heard of (`listen`): what such looks find was
started by SQL, or in a transaction that took long. A queue with a limit is looked at sooner, as without a listener:
nobody tells of room that others make there.
"""

UPKEEP_S = 1.0
"""About so often upkeep rides with a look; up to 0.3 s early, so that an idle executor needs one flight for both."""

GATHER_S = 0.002
"""After a look that filled all slots: so long slots that are freed gather before the next one."""

GATHER_MAX = 5
"""And so often, as long as more and more of them are freed."""


BOTH = (True, False)
"""Colours: `async def`, `def`."""


class Control:
    """One thread and one connection for everything that looks for work. A look is one round trip."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._database = executor.runtime.database
        self._connection = self._database.own_connection()
        self._driver = SyncDriver(self._database, pool=self._connection)
        self._wake = threading.Event()
        self._roomy = threading.Event()
        self._stopping = threading.Event()
        self._hungry: Collection[bool] = ()
        """The colours that have more work than slots, as far as is known."""
        self._asked = False
        self._poll_s_max = executor.runtime.settings.poll_interval_s_max
        self._random = random.Random()  # noqa: S311  (spreads polls, guards nothing)
        self._claims = Claims(executor, self._driver)
        self._upkeep = Upkeep(
            self._driver, self._connection, executor.lease.ttl_s, self._stopping.is_set, executor.hint_cancel
        )
        self._upkeep_at = 0.0
        self.timers = Timers()
        self._thread = threading.Thread(target=self._run, name="dbdurable-control", daemon=True)

    def start(self) -> None:
        """Begins to claim."""
        self._thread.start()

    def retire(self) -> None:
        """Claims no more from here on; waits for nothing."""
        self._stopping.set()
        self._roomy.set()
        self.hint()

    def stop(self) -> None:
        """Claims no more."""
        self.retire()
        self._thread.join(10.0)
        self._connection.close()

    def hint(self) -> None:
        """Looks at once."""
        self._asked = True
        self._wake.set()

    def freed(self, frame: WorkflowFrame) -> None:
        """A slot is free again: worth a look if there is more work of that colour than there were slots for."""
        if frame.is_async in self._hungry:
            free = self._executor.attempts.free(frame.is_async)
            if free > 0 and not self._wake.is_set():
                self._wake.set()
            if free >= self._executor.attempts.largest(frame.is_async):
                self._roomy.set()

    def ended(self, frame: WorkflowFrame) -> None:
        """An attempt is over: worth a look if it had a slot to the end, a limit has room, or a parent waits."""
        if frame.slots or frame.parent_id is not None:
            self.hint()
        self.freed(frame)

    def _run(self) -> None:
        delay_s = POLL_S_FIRST
        while not self._stopping.is_set():
            self._wake.clear()
            self._roomy.clear()
            self._asked = False
            self._hungry = BOTH  # a slot that is freed while this look is under way is one that it did not ask for
            try:
                taken = self.look()
                self._hungry = taken.hungry
                delay_s = self._pause_s(taken, delay_s)
            except (ConnectionLost, Transient, DatabaseUnavailable) as error:
                logger.warning("the database is away: %s", error)
                delay_s = min(2.0, delay_s * 2)
            except Exception:
                logger.exception("claiming failed")
                delay_s = min(2.0, delay_s * 2)
            else:
                if taken.again and self._has_room():
                    self._gather()
                    continue
            upkeep_s = max(0.0, min(self._upkeep_at, self._upkeep.sure_at) - boottime())
            wait_s = min(delay_s, upkeep_s) * self._random.uniform(0.8, 1.2)
            if self._is_woken(min(wait_s, self.timers.due_in_s())):
                delay_s = POLL_S_FIRST
                self._gather()

    def _is_woken(self, wait_s: float) -> bool:
        """Waits so long that somebody asks for a look, or that a slot is free for what is known to be there."""
        end = boottime() + wait_s
        while self._wake.wait(max(0.0, end - boottime())):
            self._wake.clear()
            if self._asked or self._has_room():
                return True
        return False

    def _has_room(self) -> bool:
        """Whether another look could take more of what is known to be there."""
        return not self._hungry or any(self._executor.attempts.free(is_async) > 0 for is_async in self._hungry)

    def _gather(self) -> None:
        """Waits a little for slots to be freed, if a claim would be a small one, and on while more are freed."""
        attempts, before = self._executor.attempts, 0
        for _ in range(GATHER_MAX):
            free = sum(map(attempts.free, self._hungry))
            if free == before or free >= sum(map(attempts.largest, self._hungry)) or self._roomy.wait(GATHER_S):
                return
            before = free

    def _pause_s(self, taken: Taken, before_s: float) -> float:
        """How long nothing is looked for after that, unless somebody asks for it."""
        if taken.count:
            return POLL_S_FIRST
        heard = self._executor.listener.listening and not self._claims.limited
        return min(self._poll_s_max, max(POLL_S_HEARD if heard else POLL_S_FIRST, before_s * 1.5))

    def look(self) -> Taken:
        """One flight: the upkeep and timers, if they are due, then a claim for the free slots."""
        executor = self._executor
        executor.learn(self._driver)
        upkeep = []
        if boottime() >= min(self._upkeep_at - 0.3 * UPKEEP_S, self._upkeep.sure_at):
            # Noted before it is tried: if it fails, the next look claims without it.
            self._upkeep_at = boottime() + UPKEEP_S * self._random.uniform(0.8, 1.2)
            upkeep = self._upkeep.ask(executor.queues)
        timers = self.timers.ask(also_others=bool(upkeep))
        children = executor.attempts.take_children()
        tells = [Query(WAKE_ENDED, (children,))] if children else []
        claims = self._claims.ask()
        if not upkeep and not timers and not tells and not claims:
            return Taken(0, again=False, hungry=BOTH)
        plan = [Query(CLAIM_PLAN, ())]
        answers = iter(self._driver.run(flight(*upkeep, *plan, *timers, *tells, *claims)))
        kept, _, rung, _ = (list(islice(answers, len(asked))) for asked in (upkeep, plan, timers, tells))
        taken = self._claims.take(list(answers)) if claims else Taken(0, again=False, hungry=BOTH)
        if timers:
            self.timers.take(rung[-1])
        if upkeep and self._upkeep.take(kept):
            self.hint()
        return taken
