"""Statements that can ride together: one commit for what several workflows write at the same moment.

Every item is idempotent, so a batch whose answer was lost is simply sent again by those who wait for it. A batch
that fails is split until the item that is to blame is left alone: who asked for it asks again by itself, where it
may wait, or fail, and its neighbours do not suffer. Nothing with a caller's unique key rides, since it may have to
wait for somebody else's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dbdurable._core.control import ConnectionLost
from dbdurable._protocol.effects import Flow, Query, Row, flight, query
from dbdurable._protocol.start import starts_json
from dbdurable._protocol.wait import waits_json
from dbdurable._sql.message import SEND_MANY, SEND_ONCE, SEND_RECORDED, SEND_RECORDED_MANY
from dbdurable._sql.start import (
    ADOPT_CHILD,
    ADOPT_CHILD_MANY,
    START,
    START_CHILD,
    START_CHILD_COLUMNS,
    START_CHILD_MANY,
    START_MANY,
)
from dbdurable._sql.statement import Statement
from dbdurable._sql.step import APPEND
from dbdurable._sql.wait import END_WAIT, END_WAIT_MANY, LOOK, LOOK_MANY, PARK, PARK_MANY
from dbdurable._sql.workflow import FINISH, FINISH_MANY, FINISH_SUCCEEDED, RIDE

BATCH_MAX: Final = 128
"""Items of one commit."""

BATCH_CHARS_MAX: Final = 4 * 2**20
"""Characters of one commit, or one item: large values must not fill the memory together, nor hold up small ones."""

Answer = list[Row] | BaseException | None
"""The rows of an item's statement, or what it raised. None: who asked has to ask alone."""


@dataclass(frozen=True, slots=True)
class Ride:
    """How one statement rides with others of its kind."""

    may: Callable[[tuple[Any, ...]], bool]
    many: Callable[[Sequence[Query]], Query]
    split: Callable[[Sequence[Query], list[Row]], list[list[Row]]]
    """The rows of each item."""
    large: tuple[int, ...] = ()
    """The places of parameters that users fill; a list there has one element."""
    leaves_out: bool = False
    """An item without rows has to be asked alone: its workflow's row was locked, or is another's by now."""
    alone: Callable[[Query], Query] = lambda item: item
    """What it is sent as where nobody rides with it."""
    last: bool = False
    """Whether an attempt ends with it: no code of the user's waits for the answer."""


def _start_may(params: tuple[Any, ...]) -> bool:
    return params[2] is None and params[13] is None  # no key; no parent, whose record goes with it


def _start_many(items: Sequence[Query]) -> Query:
    return Query(START_MANY, (starts_json([item.params for item in items]),))


def _start_split(items: Sequence[Query], rows: list[Row]) -> list[list[Row]]:
    return [[(id,)] for _, id in rows]


def _start_child_may(params: tuple[Any, ...]) -> bool:
    return params[2] is None  # no key


def _start_child_many(items: Sequence[Query]) -> Query:
    return Query(START_CHILD_MANY, _columns(items, START_CHILD_COLUMNS))


def _start_child_split(items: Sequence[Query], rows: list[Row]) -> list[list[Row]]:
    found = {(parent_id, path): (id, written_us) for parent_id, path, id, written_us in rows}
    return [[row] if (row := found.get((item.params[18], item.params[19]))) else [] for item in items]


def _adopt_child_many(items: Sequence[Query]) -> Query:
    return Query(ADOPT_CHILD_MANY, _columns(items, 3))


def _adopt_child_split(items: Sequence[Query], rows: list[Row]) -> list[list[Row]]:
    found = {id: tuple(row) for id, *row in rows}
    return [[row] if (row := found.get(item.params[0])) else [] for item in items]


def _always(params: tuple[Any, ...]) -> bool:
    return True


def _append_many(items: Sequence[Query]) -> Query:
    """The same statement: its columns are arrays already."""
    columns = zip(*(item.params[1:] for item in items), strict=True)
    return Query(APPEND, (items[0].params[0], *([value for cell in column for value in cell] for column in columns)))


def _append_split(items: Sequence[Query], rows: list[Row]) -> list[list[Row]]:
    found = {(row[0], row[1]): row for row in rows}
    return [[row] if (row := found.get((item.params[1][0], item.params[2][0]))) else [] for item in items]


def _columns(items: Sequence[Query], many: int) -> tuple[list[Any], ...]:
    """The first parameters of all items, as arrays."""
    return tuple(list(column) for column in zip(*(item.params[:many] for item in items), strict=True))


def _end_wait_many(items: Sequence[Query]) -> Query:
    return Query(END_WAIT_MANY, _columns(items, 10))


def _recorded_split(items: Sequence[Query], rows: list[Row]) -> list[list[Row]]:
    found = {(id, path): written_us for id, path, written_us in rows}
    return [[(written_us,)] if (written_us := found.get(item.params[:2])) else [] for item in items]


def _send_many(items: Sequence[Query]) -> Query:
    return Query(SEND_MANY, _columns(items, 4))


def _send_split(items: Sequence[Query], rows: list[Row]) -> list[list[Row]]:
    return [[row] for row in rows]


def _send_recorded_may(params: tuple[Any, ...]) -> bool:
    return params[10] is None  # no key


def _send_recorded_many(items: Sequence[Query]) -> Query:
    return Query(SEND_RECORDED_MANY, _columns(items, 10))


def _park_may(params: tuple[Any, ...]) -> bool:
    return params[4] is None  # what gives a limit back waits for that row


def _park_many(items: Sequence[Query]) -> Query:
    return Query(PARK_MANY, (*_columns(items, 3), [waits_json(item.params[5:]) for item in items]))


def _look_many(items: Sequence[Query]) -> Query:
    return Query(LOOK_MANY, _columns(items, 1))


def _look_split(items: Sequence[Query], rows: list[Row]) -> list[list[Row]]:
    queues: dict[Any, Any] = dict(rows)
    return [[(queues[id],)] if (id := item.params[0]) in queues else [] for item in items]


def _finish_may(params: tuple[Any, ...]) -> bool:
    return params[8] is None  # as with a park


def _finish_many(items: Sequence[Query]) -> Query:
    return Query(FINISH_MANY, _columns(items, 7))


def _finish_alone(item: Query) -> Query:
    id, executor_id, epoch, status, output, *_ = item.params
    return Query(FINISH_SUCCEEDED, (id, executor_id, epoch, output)) if status == "succeeded" else item


def _changed_split(items: Sequence[Query], rows: list[Row]) -> list[list[Row]]:
    found = {row[0] for row in rows}
    return [[(item.params[0],)] if item.params[0] in found else [] for item in items]


RIDES: Final[dict[Statement, Ride]] = {
    START: Ride(_start_may, _start_many, _start_split, large=(1, 11)),
    START_CHILD: Ride(_start_child_may, _start_child_many, _start_child_split, large=(1, 11), leaves_out=True),
    APPEND: Ride(_always, _append_many, _append_split, large=(9, 10)),
    END_WAIT: Ride(_always, _end_wait_many, _recorded_split, large=(8, 9), leaves_out=True),
    SEND_ONCE: Ride(_always, _send_many, _send_split, large=(2,)),
    SEND_RECORDED: Ride(_send_recorded_may, _send_recorded_many, _recorded_split, large=(9,), leaves_out=True),
    ADOPT_CHILD: Ride(_always, _adopt_child_many, _adopt_child_split, leaves_out=True),
    PARK: Ride(_park_may, _park_many, _changed_split, leaves_out=True, last=True),
    LOOK: Ride(_always, _look_many, _look_split),
    FINISH: Ride(
        _finish_may, _finish_many, _changed_split, large=(4, 5), leaves_out=True, alone=_finish_alone, last=True
    ),
}
"""In the order in which a batch writes them."""


def rides(item: Query) -> bool:
    """Whether it may share its commit with others."""
    ride = RIDES.get(item.statement)
    return ride is not None and ride.may(item.params)


def ends_attempt(item: Query) -> bool:
    """Whether it may share its commit, and no code of the user's is left that waits for it."""
    ride = RIDES.get(item.statement)
    return ride is not None and ride.last and ride.may(item.params)


def weight(item: Query) -> int:
    """How many characters of users' values it sends."""
    chars = 0
    for place in RIDES[item.statement].large:
        value = item.params[place]
        text = value[0] if type(value) is list else value
        chars += len(text or "")
    return chars


def together(items: Sequence[Query]) -> Flow[list[Answer]]:
    """One commit for all of them, where that goes; the answer to each."""
    if len(items) == 1:
        return [(yield from _alone(items[0]))]
    return (yield from _shared(items))


def _shared(items: Sequence[Query]) -> Flow[list[Answer]]:
    if len(items) == 1:
        return [None]
    groups = [(ride, places) for statement, ride in RIDES.items() if (places := _places(items, statement))]
    try:
        _, *found = yield from flight(
            Query(RIDE, ()), *(ride.many([items[n] for n in places]) for ride, places in groups)
        )
    except ConnectionLost as lost:
        return [ConnectionLost(str(lost), lost.backend) for _ in items]
    except Exception:
        half = len(items) // 2
        first = yield from _shared(items[:half])
        return first + (yield from _shared(items[half:]))
    answers: list[Answer] = [[]] * len(items)
    for (ride, places), rows in zip(groups, found, strict=True):
        for place, answer in zip(places, ride.split([items[n] for n in places], rows), strict=True):
            answers[place] = answer if answer or not ride.leaves_out else None
    return answers


def _places(items: Sequence[Query], statement: Statement) -> list[int]:
    return [place for place, item in enumerate(items) if item.statement is statement]


def _alone(item: Query) -> Flow[Answer]:
    item = RIDES[item.statement].alone(item)
    try:
        return (yield from query(item.statement, *item.params))
    except Exception as error:
        return error
