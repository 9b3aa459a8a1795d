"""Connections: how they are set up, and one sentence without a password for each refusal."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import dbdurable._embedded
from dbdurable._embedded import EmbeddedServer
from dbdurable._io.connect import (
    _LOOK_AND_SET,
    async_session_setup,
    connect,
    connect_kwargs,
    connection_error,
    resolve_url,
    session_setup,
)
from dbdurable.errors import BadConfiguration, DatabaseUnavailable
from dbdurable.settings import load_settings

INTERVAL = "show client_connection_check_interval"


def refused(url: str, **kwargs: Any) -> str:
    """The sentence that a user reads; no part of the report may show the password."""
    with pytest.raises(DatabaseUnavailable) as caught:
        connect(url, **kwargs)
    report = "".join(traceback.format_exception(caught.value))
    assert "s3cr3t" not in report
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_connection_is_set_up(database_url: str):
    with connect(database_url) as connection:
        assert connection.autocommit
        assert connection.execute("show application_name").fetchone() == ("dbdurable",)
        assert connection.execute(INTERVAL).fetchone() == ("500ms",)
        parameters = connection.info.get_parameters()
        assert parameters["keepalives_idle"] == "10"
        assert parameters["tcp_user_timeout"] == "15000"
        assert parameters["connect_timeout"] == "10"


def test_the_url_and_the_caller_have_the_last_word(database_url: str):
    url = make_conninfo(database_url, application_name="shop", connect_timeout=3)
    assert "application_name" not in connect_kwargs(url)
    with connect(url, keepalives_idle=7, autocommit=False) as connection:
        parameters = connection.info.get_parameters()
        assert (parameters["application_name"], parameters["connect_timeout"]) == ("shop", "3")
        assert parameters["keepalives_idle"] == "7"
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_session_setup_in_both_colours(database_url: str):
    with psycopg.connect(database_url) as connection:
        session_setup(connection)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert connection.execute(INTERVAL).fetchone() == ("500ms",)
    async with await psycopg.AsyncConnection.connect(database_url) as aconnection:
        await async_session_setup(aconnection)
        assert aconnection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert await (await aconnection.execute(INTERVAL)).fetchone() == ("500ms",)


@pytest.mark.parametrize(("old", "new"), [("500ms", "x"), ("client_connection_check_interval", "no_such_setting")])
async def test_servers_without_that_setting_are_fine(
    database_url: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("dbdurable._io.connect._LOOK_AND_SET", _LOOK_AND_SET.replace(old, new))
    for autocommit in (False, True):
        with psycopg.connect(database_url, autocommit=autocommit) as connection:
            said = session_setup(connection)
            assert said is not None
            assert (said.backend[0], said.deferrable) == (connection.info.backend_pid, False)
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    async with await psycopg.AsyncConnection.connect(database_url) as aconnection:
        assert await async_session_setup(aconnection) is not None
        assert aconnection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_of_several_hosts_the_one_that_takes_writes_is_wanted():
    assert connect_kwargs("postgresql://a,b/shop")["target_session_attrs"] == "read-write"
    assert "target_session_attrs" not in connect_kwargs("postgresql://a/shop")
    assert "target_session_attrs" not in connect_kwargs("postgresql://a,b/shop?target_session_attrs=any")


@pytest.mark.parametrize("encoding", ["latin1", "utf8"])
def test_parameters_are_utf8_whatever_the_url_says(database_url: str, encoding: str):
    with connect(make_conninfo(database_url, client_encoding=encoding)) as connection:
        assert connection.execute("show client_encoding").fetchone() == ("UTF8",)


# ---- refusals ----------------------------------------------------------------------------------------------


def test_nobody_listens():
    with socket.socket() as taken:  # bound but not listening: nobody else can take the port
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        text = refused(f"postgresql://bob:s3cr3t@127.0.0.1:{port}/shop")
    assert f"127.0.0.1, port {port} (database shop, user bob)" in text
    assert "nothing answers there" in text


def test_a_host_that_keeps_silent():
    with socket.socket() as silent:  # takes the connection into its backlog and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        text = refused(f"postgresql://bob:s3cr3t@127.0.0.1:{port}/shop", connect_timeout=2)
    assert "does not answer in time" in text


def test_no_socket_there(tmp_path: Path):
    assert "nothing answers there" in refused(f"host={tmp_path} password=s3cr3t")


def test_unknown_host():
    text = refused("postgresql://bob:s3cr3t@no-such-host.invalid/shop")
    assert "no-such-host.invalid, port 5432" in text
    assert "the host name is unknown" in text


def test_unknown_database_and_role(server_url: str):
    assert "does not exist; create it" in refused(make_conninfo(server_url, dbname="no_such"))
    assert "refuses this user" in refused(make_conninfo(server_url, user="no_such"))


def test_too_many_connections(server_url: str, administrator: psycopg.Connection[Any]):
    name = f"dbdurable_test_{uuid4().hex[:8]}"
    administrator.execute(sql.SQL("create role {} login connection limit 0").format(sql.Identifier(name)))
    try:
        assert "no connection left" in refused(make_conninfo(server_url, user=name))
    finally:
        administrator.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cr3t%zz@h/d",
        "postgresql://u:s3cr3t@[h/d",
        "host=h s3cr3t",
        "postgresql://h/d?s3cr3t=1",
    ],
)
def test_a_url_that_cannot_be_parsed(url: str):
    with pytest.raises(BadConfiguration, match="percent-encoded") as caught:
        connect(url)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_unknown_reasons_are_shown_without_the_password():
    error = psycopg.OperationalError("Verbindung mit s3cr3t: geht nicht\nsonst nichts")
    text = str(connection_error(error, "postgresql://bob:s3cr3t@h:1/d"))
    assert text.endswith("(database d, user bob): Verbindung mit ***: geht nicht")


@pytest.fixture(scope="module")
def tcp_url() -> Iterator[str]:
    """A server with password login over TCP, as in production."""
    from tests.conftest import DIRECTORY

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = uuid4().hex[:8]
    settings = {"listen_addresses": "127.0.0.1", "port": port}
    with EmbeddedServer(DIRECTORY / f"tcp-{worker}", durable=False, linger_s=0, settings=settings) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("create role bob login password 's3cr3t'")
        yield f"postgresql://bob:s3cr3t@127.0.0.1:{port}/postgres"
        server.stop()


def test_passwords(tcp_url: str):
    with connect(tcp_url) as connection:
        assert connection.execute("select current_user").fetchone() == ("bob",)
    wrong = refused(tcp_url.replace("s3cr3t", "s3cr3t-2"))
    assert "the password is wrong or missing" in wrong
    assert "user bob" in wrong
    assert "the password is wrong or missing" in refused(tcp_url.replace(":s3cr3t", ""))


# ---- which database ----------------------------------------------------------------------------------------


class Embedded:
    url = "postgresql://postgres@/postgres?host=embedded"


@pytest.fixture
def embedded_starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    starts: list[int] = []

    def start() -> Embedded:
        starts.append(1)
        return Embedded()

    monkeypatch.setattr(dbdurable._embedded, "start_default", start)
    return starts


def test_url_first_then_embedded(embedded_starts: list[int], monkeypatch: pytest.MonkeyPatch):
    assert resolve_url(load_settings("postgresql+psycopg://h/d")) == "postgresql://h/d"
    assert not embedded_starts
    assert resolve_url(load_settings()) == Embedded.url
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/d")
    assert resolve_url(load_settings()) == "postgresql://h/d"
    assert resolve_url(load_settings(embedded="never")) == "postgresql://h/d"
    assert resolve_url(load_settings(embedded="always")) == Embedded.url


def test_never_embedded_and_no_url_names_both_ways_out(embedded_starts: list[int]):
    with pytest.raises(DatabaseUnavailable, match=r"DBDURABLE_DATABASE_URL.*DBDURABLE_EMBEDDED=auto"):
        resolve_url(load_settings(embedded="never"))
    assert not embedded_starts
