"""The connections of an executor's own services."""

import psycopg
import pytest

from dbdurable._executor.heartbeat import SERVICE_TRANSACTION_MS_MAX, OwnConnection


def test_a_frozen_service_cannot_keep_its_locks_for_ever(database_url: str, connection: psycopg.Connection) -> None:
    if connection.info.server_version < 170_000:
        pytest.skip("PostgreSQL before 17 has no transaction_timeout")
    own = OwnConnection(database_url)
    shown = own.getconn().execute("select current_setting('transaction_timeout')::interval").fetchone()
    assert shown is not None
    assert shown[0].total_seconds() * 1000 == SERVICE_TRANSACTION_MS_MAX
    own.close()


def test_it_connects_again_after_it_broke(database_url: str, connection: psycopg.Connection) -> None:
    own = OwnConnection(database_url)
    first = own.getconn().info.backend_pid
    connection.execute("select pg_terminate_backend(%s)", [first])
    with pytest.raises(psycopg.OperationalError):
        own.getconn().execute("select 1")
    assert own.getconn().info.backend_pid != first
    assert own.generation == 2
    own.close()
