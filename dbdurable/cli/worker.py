"""`worker`: a process that claims and runs workflows until it is told to stop."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbdurable.cli.app import Schema, Url, chosen

if TYPE_CHECKING:
    from queue import SimpleQueue

    from rich.console import Console

    from dbdurable._executor.executor import Executor
    from dbdurable.durable import Durable

__all__ = ["worker"]

logger = logging.getLogger("dbdurable")


def worker(
    application: Annotated[
        str, typer.Argument(metavar="MODULE:OBJECT", help="The Durable: shop.flows:durable, or shop:make_durable().")
    ],
    threads: Annotated[int, typer.Option("--threads", min=0, help="`def` workflows at once.")] = 16,
    tasks: Annotated[int, typer.Option("--tasks", min=0, help="`async def` workflows at once.")] = 64,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", help="Only this queue; may be repeated.", show_default=False)
    ] = None,
    grace: Annotated[float, typer.Option("--grace", min=0, help="Seconds to finish in when stopping.")] = 30,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when nothing is queued or running.")] = False,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when a source file changes.")] = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Run workflows, until SIGTERM or Ctrl-C.

    The first signal stops claiming, lets running workflows end and hands back what does not end within --grace;
    the second one stops at once (the work is recovered elsewhere).
    """
    screen = _log_lines()
    if reload:
        from dbdurable.cli.reload import supervise

        raise typer.Exit(supervise(sys.argv))
    from dbdurable.cli.worker_status import status_line

    durable = find_durable(application)
    url, schema = chosen(url, schema)
    changes: dict[str, Any] = {"schema": schema} if schema else {}
    if url or changes:
        durable.configure(url, **changes)
    stops = _on_signals(screen)
    executor = durable.executor(queues=queue or None, threads=threads, tasks=tasks)
    with status_line(screen, executor) as line:
        _spare_the_collector()  # before it claims: what runs then may become garbage
        executor.open()
        if line is not None:
            line.is_open = True
        _say_started(executor)
        if until_idle:
            threading.Thread(target=_tell_idle, args=(executor, stops), daemon=True).start()
        reason = stops.get()
        running = len(executor.attempts.names())
        logger.info("stopping (%s): %s", _words(reason), f"{running} running" if running else "nothing is running")
        if line is not None:
            line.is_stopping = True
        executor.close(grace)
        durable.close()
    logger.info("stopped")
    if isinstance(reason, Exception):
        raise reason


def _spare_the_collector() -> None:
    """What is imported stays: looking through it for garbage, again and again, took a tenth of small workflows."""
    gc.collect()
    gc.freeze()


def find_durable(reference: str) -> Durable:
    """The application that `module:object` or `module:factory()` names; the directory is on the path.

    Raises:
        BadArgument: There is no such module or object, or it is no Durable.
    """
    from importlib import import_module

    from dbdurable.durable import Durable
    from dbdurable.errors import BadArgument

    module_name, _, path = reference.partition(":")
    name, is_call = path.removesuffix("()"), path.endswith("()")
    if not all(part.isidentifier() for part in [*module_name.split("."), *name.split(".")]):
        raise BadArgument(f"{reference!r} names no object; write module:object, for example shop.flows:durable")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # a module that the application itself does not find: its traceback says where
        raise BadArgument(f"there is no module {error.name!r} in {os.getcwd()} or on the Python path") from None
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = sorted(n for n, value in vars(found).items() if isinstance(value, Durable))
            hint = f"; it has: {', '.join(known)}" if known else ""
            raise BadArgument(f"module {module_name!r} has no {name!r}{hint}") from None
    if is_call:
        found = found()
    if not isinstance(found, Durable):
        call = f"; to call it, write '{reference}()'" if callable(found) and not is_call else ""
        raise BadArgument(f"{reference} is a {type(found).__name__}, not a Durable{call}")
    return found


def _on_signals(screen: Console | None) -> SimpleQueue[Any]:
    """Where the first SIGTERM or SIGINT arrives; the second ends the process."""
    from queue import SimpleQueue  # its put() may be called in a signal handler

    stops: SimpleQueue[Any] = SimpleQueue()
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        received.append(number)
        if len(received) > 1:
            _say_gone(number, screen is not None)
            os._exit(128 + number)
        stops.put(signal.Signals(number))

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stops


def _say_gone(number: int, on_terminal: bool) -> None:
    """The last words; written past the log, whose locks somebody may hold."""
    from dbdurable.cli.worker_status import SHOW_CURSOR

    said = f"stopped at once ({signal.Signals(number).name} again): another worker takes over what ran here"
    if on_terminal:
        text = f"{SHOW_CURSOR}{said}\n"
    else:
        text = f"{time.strftime('%Y-%m-%d %H:%M:%S')},000 WARNING dbdurable: {said}\n"
    os.write(2, text.encode())


def _tell_idle(executor: Executor, stops: SimpleQueue[Any]) -> None:
    try:
        executor.wait_idle()
        stops.put("idle")
    except Exception as error:
        stops.put(error)


def _words(reason: object) -> str:
    return reason.name if isinstance(reason, signal.Signals) else str(reason)


def _say_started(executor: Executor) -> None:
    from dbdurable.settings import mask_url

    definitions = executor.definitions.values()
    workflows = sorted(d.name for d in definitions if d.kind == "workflow")
    logger.info(
        "worker %d runs %s from %s (%d threads, %d tasks) on %s, schema %s",
        os.getpid(),
        ", ".join(workflows) or "no workflow, only single steps",
        "queue " + executor.queues[0] if len(executor.queues) == 1 else "queues " + ", ".join(executor.queues),
        executor.threads,
        executor.tasks,
        mask_url(executor.runtime.database.url),
        executor.runtime.database.schema,
    )


def _log_lines() -> Console | None:
    """One line an event on stderr; in colour on a terminal, which is returned."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        screen = Console(stderr=True)
        handler = RichHandler(console=screen, show_path=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)
        return screen
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr, force=True)
    return None
