"""An agent: a model calls tools until it has an answer; what costs money waits for a human.

Each answer of the model and each call of a tool is recorded: after a crash the agent goes on where it was, and no
answer is paid for twice. The model here is a script; put the client of yours into `ask_model`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from psycopg import Connection

from dbdurable import Durable, promise, set_event
from dbdurable.errors import PromiseRejected, WaitTimeout

durable = Durable()


@dataclass
class Move:
    """What the model wants: to use a tool or, without one, to answer."""

    text: str
    tool: str | None = None
    arguments: tuple[int, ...] = ()


SCRIPT = [
    Move("What was it?", "look_up", (7,)),
    Move("Refund all of it?", "refund", (7, 3900)),
    Move("Refund a part of it?", "refund", (7, 1000)),
    Move("Sorry about the kettle: 10.00 are on their way."),
]


@durable.step(retry=5)
def ask_model(talk: list[str]) -> Move:
    """The model's next move; a real one reads all that was said."""
    return SCRIPT[len(talk) - 1]


@durable.step
def look_up(order: int) -> str:
    """A tool that reads: at least once."""
    return f"order {order}: a kettle, 39.00, broken"


@durable.transaction
def refund(tx: Connection, order: int, cents: int) -> str:
    """A tool that writes: exactly once."""
    tx.execute("insert into example_refund (order_id, cents) values (%s, %s)", [order, cents])
    return f"refunded {cents} cents"


TOOLS: dict[str, Callable[..., str]] = {"look_up": look_up, "refund": refund}


@durable.workflow
def agent(question: str) -> str:
    talk = [question]
    while (move := ask_model(talk)).tool is not None:
        try:
            if move.tool == "refund":
                approval = promise("approval", str)
                set_event(f"wish-{len(talk)}", [move.text, approval.token])
                approval.result(timeout=7 * 86_400)  # a week costs nothing: no thread, no connection
            talk.append(TOOLS[move.tool](*move.arguments))
        except (PromiseRejected, WaitTimeout) as refusal:
            talk.append(f"not allowed: {refusal}")  # the model has to think of something else
    return move.text


if __name__ == "__main__":
    with durable.executor(), Connection.connect(durable.url, autocommit=True) as connection:
        connection.execute("drop table if exists example_refund; create table example_refund (order_id int, cents int)")
        handle = agent.start("My kettle came broken!")
        for wish, reply in ("wish-2", durable.client.reject), ("wish-3", durable.client.resolve):
            text, token = handle.get_event(wish, list[str])  # a human sees them on a web page
            print(text, reply.__name__)
            reply(token, "by ann")
        print(handle.result(), connection.execute("select cents from example_refund").fetchall())
