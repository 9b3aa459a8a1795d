"""How connections are opened, and what a user reads when that fails.

Every refusal becomes one sentence with host, port, database and user, and never the password: psycopg's
own error carries it in `error.pgconn`, which is why mapped errors are raised `from None`.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict

from dbdurable.errors import BadConfiguration, DatabaseUnavailable, DurableError

if TYPE_CHECKING:
    from dbdurable._embedded import EmbeddedServer
    from dbdurable.settings import Settings

__all__ = [
    "CONNECT_KWARGS",
    "READ_ONLY",
    "Whereabouts",
    "async_session_setup",
    "connect",
    "connect_kwargs",
    "connection_error",
    "resolve_url",
    "session_setup",
]

# A dead peer is noticed after 10 + 3 * 5 s when the line is silent, and after 15 s when data is on its
# way; the defaults of Linux are two hours and a quarter of an hour.
CONNECT_KWARGS: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    "application_name": "dbdurable",
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

# One look at a new session, in one round trip: is the process that answers the one that took the connection? It is
# not behind a pooler. There a `set` would reach other clients, too; elsewhere the server is asked to look for a
# vanished client while it runs a statement or waits for a lock: a killed executor's locks are free at once.
_LOOK: Final = (
    "select pid, backend_start, current_setting('default_transaction_deferrable') = 'on'"
    " from pg_stat_get_activity(pg_backend_pid()) where pid = %s"
)
_LOOK_AND_SET: Final = _LOOK.replace(
    " from ", ", set_config('client_connection_check_interval', '500ms', false) from ", 1
)
# Not Linux, or a proxy that keeps settings to itself: slower recovery, no reason to fail.
_UNSUPPORTED: Final = (
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.UndefinedObject,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InsufficientPrivilege,
)

Backend = tuple[int, datetime]
"""A server process and its start."""


class Introduction(NamedTuple):
    """What a new session says of itself."""

    backend: Backend
    deferrable: bool
    """Whether its transactions are deferrable where nobody says otherwise."""


READ_ONLY: Final = "the database is read-only (a standby, or default_transaction_read_only); use the primary's URL"


def resolve_url(settings: Settings) -> str:
    """The URL to connect to; starts the embedded server when the settings leave only that.

    Raises:
        DatabaseUnavailable: No URL is set, and the embedded server is switched off or not installed.
    """
    if (url := settings.url) is not None:
        return url
    if settings.embedded == "never":
        raise DatabaseUnavailable(
            "no database: set DBDURABLE_DATABASE_URL=postgresql://user:password@host/database, or allow the "
            "embedded server with DBDURABLE_EMBEDDED=auto (pip install 'dbdurable[embedded]')"
        )
    from dbdurable._embedded import start_default  # only who has no database pays for it

    return start_default().url


class Whereabouts:
    """Where to connect, asked before each connection: an embedded server that has died is started again by it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: EmbeddedServer | None = None
        self._pid = 0

    def __call__(self) -> str:
        if self._settings.url is not None or self._settings.embedded == "never":
            return resolve_url(self._settings)
        from dbdurable._embedded import start_again, start_default

        if self._server is None or self._pid != os.getpid():
            self._server, self._pid = start_default(), os.getpid()
            return self._server.url
        return start_again(self._server).url  # the same one, whatever the current directory is by now


def connect_kwargs(url: str) -> dict[str, Any]:
    """`CONNECT_KWARGS` without what the URL itself says: `?connect_timeout=3` is the user's word.

    Of several hosts only the one that takes writes will do: after a failover it is another one.
    """
    said = _parse(url)
    wanted = (
        {**CONNECT_KWARGS, "target_session_attrs": "read-write"} if "," in str(said.get("host")) else CONNECT_KWARGS
    )
    # Not for the URL to say: parameters travel as bytes that this package has encoded.
    return {name: value for name, value in wanted.items() if name not in said} | {"client_encoding": "utf8"}


def connect(url: str, **kwargs: Any) -> Connection[Any]:
    """Opens one autocommit connection, set up like those of the pools.

    Raises:
        DatabaseUnavailable: It cannot be reached or refuses the login.
        BadConfiguration: The URL cannot be parsed.
    """
    options = {"autocommit": True, **connect_kwargs(url), **kwargs}
    try:
        connection = Connection.connect(url, **options)
        try:
            session_setup(connection)
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        raise connection_error(error, url) from None
    return connection


def session_setup(connection: Connection[Any]) -> Introduction | None:
    """Prepares a new session, and lets it introduce itself; None behind a pooler. Leaves no transaction open."""
    pid = (connection.info.backend_pid,)
    try:
        row = connection.execute(_LOOK_AND_SET, pid, prepare=False).fetchone()
    except _UNSUPPORTED:
        connection.rollback()
        row = connection.execute(_LOOK, pid, prepare=False).fetchone()
    connection.commit()
    if row is None:
        connection.prepare_threshold = None  # psycopg's own would be looked for in another session
    return row and Introduction((row[0], row[1]), row[2])


async def async_session_setup(connection: AsyncConnection[Any]) -> Introduction | None:
    """`session_setup` for an asynchronous connection."""
    pid = (connection.info.backend_pid,)
    try:
        row = await (await connection.execute(_LOOK_AND_SET, pid, prepare=False)).fetchone()
    except _UNSUPPORTED:
        await connection.rollback()
        row = await (await connection.execute(_LOOK, pid, prepare=False)).fetchone()
    await connection.commit()
    if row is None:
        connection.prepare_threshold = None
    return row and Introduction((row[0], row[1]), row[2])


_FULL: Final = ({"53300"}, "too many (clients|connections)|connection slots are reserved")

# SQLSTATEs, what libpq writes instead (it keeps the SQLSTATE of a refused login to itself), the sentence.
_CAUSES: Final[tuple[tuple[set[str], str, str], ...]] = (
    (
        {"28P01"},
        "password authentication failed|no password supplied",
        "the password is wrong or missing; correct it in the database URL",
    ),
    (
        {"3D000"},
        'database "[^"]*" does not exist',
        "that database does not exist; create it (createdb) or correct the name in the database URL",
    ),
    (
        {"28000"},
        'no pg_hba.conf entry|role "[^"]*" does not exist|authentication failed|not permitted to log in',
        "the server refuses this user; check the user name and the server's pg_hba.conf",
    ),
    (
        *_FULL,
        "the server has no connection left; raise max_connections, make the pools smaller or use PgBouncer",
    ),
    (
        {"25006"},
        "read-only transaction",
        READ_ONLY,
    ),
    (
        {"57P01", "57P02", "57P03"},
        "starting up|shutting down|in recovery mode",
        "the server is starting, stopping or recovering; try again in a moment",
    ),
    (
        set(),
        "failed to resolve host|could not translate host name|name or service not known",
        "the host name is unknown; correct it in the database URL",
    ),
    (
        set(),
        "connection refused|no such file or directory|is the server running",
        "nothing answers there; start PostgreSQL or correct host and port in the database URL",
    ),
    (
        set(),
        "timeout expired|timed out|connection timeout|no route to host|network is unreachable",
        "the host does not answer in time; check the network, the firewall and the address",
    ),
    (
        set(),
        "certificate|ssl",
        "no secure connection could be made; check sslmode and the certificates",
    ),
)


def connection_error(error: psycopg.Error, url: str) -> DurableError:
    """The error for users: what was tried, why it failed, what to do. Raise it `from None`."""
    try:
        said = _parse(url)
    except BadConfiguration as unparsable:
        return unparsable
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return _unparsable()  # a keyword argument of psycopg's that libpq does not know
    return DatabaseUnavailable(f"cannot use PostgreSQL at {_place(said)}: {_cause(error, said)}")


def is_full(error: psycopg.Error) -> bool:
    """Whether the server has no room for another connection."""
    return _says(error, *_FULL)


def _says(error: psycopg.Error, states: set[str], pattern: str) -> bool:
    return error.sqlstate in states or re.search(pattern, str(error), re.IGNORECASE) is not None


def _cause(error: psycopg.Error, said: dict[str, Any]) -> str:
    for states, pattern, sentence in _CAUSES:
        if _says(error, states, pattern):
            return sentence
    text = str(error).strip()
    # Servers speak many languages: an unknown reason is shown as it came.
    for secret in ("password", "sslpassword"):
        if said.get(secret):
            text = text.replace(str(said[secret]), "***")
    return text.splitlines()[0] if text else type(error).__name__


def _place(said: dict[str, Any]) -> str:
    host = said.get("host") or said.get("hostaddr") or "the local socket"
    port = said.get("port") or 5432
    user = said.get("user") or "the operating system's"
    return f"{host}, port {port} (database {said.get('dbname') or user}, user {user})"


def _parse(url: str) -> dict[str, Any]:
    try:
        said = dict(conninfo_to_dict(url))
    except psycopg.Error:  # its message repeats the part that it did not understand: maybe the password
        raise _unparsable() from None
    if not re.fullmatch(r"[\d,]*", str(said.get("port") or "")):
        raise _unparsable()  # a `/` in the password: its beginning was taken for the port
    return said


def _unparsable() -> BadConfiguration:
    return BadConfiguration(
        "the database URL cannot be parsed; write postgresql://user:password@host:5432/database, with "
        "special characters of the password percent-encoded (urllib.parse.quote(password, safe=''))"
    )
