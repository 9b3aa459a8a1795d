"""The life of an embedded server, with real processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dbdurable._embedded import EmbeddedServer
from dbdurable._embedded.keeper import beside, launch, read_postmaster
from dbdurable._embedded.plan import make_plan
from dbdurable.errors import BadConfiguration, DatabaseUnavailable
from tests.embedded.helpers import LINGER_S, keeper, postmaster, query
from tests.support.processes import is_alive
from tests.support.wait import wait_until

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


def run_once(data: Path, statement: str, **options: object) -> object:
    with EmbeddedServer(data, durable=False, linger_s=LINGER_S, **options) as server:
        return query(server.url, statement)


def test_data_outlives_the_server(data):
    run_once(data, "create table kept as select 42 as n")
    wait_until(lambda: not (data / "postmaster.pid").exists())
    assert run_once(data, "select n from kept") == 42


def test_start_and_release_may_be_repeated(server):
    pid = postmaster(server.data)
    assert server.start().start() is server
    assert postmaster(server.data) == pid
    server.release()
    server.release()


def test_a_durable_server_syncs_and_a_fast_one_does_not(data, place):
    assert run_once(data, "show fsync") == "off"
    with EmbeddedServer(place / "durable", linger_s=0) as durable:
        assert (
            query(
                durable.url,
                "select string_agg(setting, ',') from pg_settings where name in"
                " ('fsync', 'full_page_writes', 'synchronous_commit')",
            )
            == "on,on,on"
        )


def test_settings_reach_the_server_and_ours_cannot_be_changed(data):
    assert run_once(data, "show max_connections", settings={"max_connections": 17, "jit": False}) == "17"
    with pytest.raises(BadConfiguration, match="'unix_socket_directories' cannot be changed"):
        EmbeddedServer(data, settings={"unix_socket_directories": "/tmp"})


def test_it_is_not_on_the_network(server):
    assert query(server.url, "show listen_addresses") == ""
    assert "scram-sha-256" in (server.data / "pg_hba.conf").read_text()


def test_sorting_does_not_depend_on_the_c_library(server):
    version = int((server.data / "PG_VERSION").read_text())
    provider = query(server.url, "select datlocprovider from pg_database where datname = 'postgres'")
    assert provider == ("b" if version >= 17 else "c")
    assert query(server.url, "select upper('ä') || pg_encoding_to_char(encoding) from pg_database limit 1") == "ÄUTF8"


def test_the_socket_is_for_its_owner_only(server):
    found = server.socket_dir.stat()
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert found.st_uid == server.data.stat().st_uid
    assert len(os.fsencode(server.socket_dir)) < 100


def test_a_long_or_closed_temporary_directory_is_not_used_for_the_socket(data, place, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(place / ("long" * 30)))
    with EmbeddedServer(data, durable=False, linger_s=0) as server:
        assert server.socket_dir.parent == Path("/tmp")


def test_a_process_with_another_temporary_directory_finds_the_socket(server, user, place):
    elsewhere = user(env=os.environ | {"TMPDIR": str(place), "PYTHONPATH": str(Path(__file__).parents[2])})
    assert elsewhere.url() == server.url


def test_somebody_elses_socket_directory_is_refused(data, server):
    wanted = server.socket_dir
    server.stop()
    wanted.mkdir()  # with a mode that lets others in
    wanted.chmod(0o755)
    try:
        with pytest.raises(DatabaseUnavailable, match="is not a private directory of uid"):
            EmbeddedServer(data, durable=False).start()
    finally:
        wanted.rmdir()


def test_three_processes_share_one_server(data, user):
    users = [user() for _ in range(3)]
    urls = {each.url() for each in users}
    assert len(urls) == 1
    started = (line for line in beside(data, "log").read_text().splitlines() if "ready to accept" in line)
    assert len(list(started)) == 1


@pytest.mark.parametrize("how", [None, signal.SIGTERM, signal.SIGKILL])
def test_it_stops_after_its_last_user(data, user, how):
    only = user()
    only.url()
    pid, watcher = postmaster(data), keeper(data)
    only.end(how)
    wait_until(lambda: not is_alive(pid) and not is_alive(watcher))
    assert not (data / "postmaster.pid").exists()  # an orderly shutdown


def test_it_stays_for_the_other_user(data, user):
    first, second = user(), user()
    first.url()
    url = second.url()
    pid = postmaster(data)
    first.end(signal.SIGKILL)
    threading.Event().wait(LINGER_S * 4)  # nothing may happen in this time
    assert is_alive(pid)
    assert query(url, "select 1") == 1
    second.end(signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))


def test_a_forked_child_holds_the_server_itself(server):
    hear_r, hear_w = os.pipe()
    say_r, say_w = os.pipe()
    pid = postmaster(server.data)
    child = os.fork()
    if child == 0:
        try:
            os.close(hear_w)
            os.write(say_w, b"1")
            os.read(hear_r, 1)
            server.release()  # closes the child's lock, not the parent's
            os.write(say_w, b"2")
            os.read(hear_r, 1)
        finally:
            os._exit(0)
    os.close(hear_r)
    try:
        assert os.read(say_r, 1) == b"1"
        fcntl.flock(server._users, fcntl.LOCK_UN)  # more than release() does: gives up every copy of it
        server.release()
        threading.Event().wait(LINGER_S * 4)
        assert is_alive(pid)
        os.write(hear_w, b"x")
        assert os.read(say_r, 1) == b"2"
        wait_until(lambda: not is_alive(pid))  # although the child lives on
    finally:
        os.close(hear_w)
        os.waitpid(child, 0)


def test_the_server_ends_with_its_keeper_and_comes_back(data, server):
    if not sys.platform.startswith("linux"):
        pytest.skip("PR_SET_PDEATHSIG is Linux only")
    pid = postmaster(data)
    os.kill(keeper(data), signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
    assert query(server.start().url, "select 1") == 1
    assert postmaster(data) != pid


def test_a_server_without_keeper_is_adopted(data):
    """As where the kernel does not end it with its keeper; here, one that the test has started itself."""
    with EmbeddedServer(data, linger_s=LINGER_S) as server:
        query(server.url, "select 1")
        first = keeper(data)
    wait_until(lambda: not is_alive(first))  # it clears the socket's directory when the server is down
    plan = make_plan(data, durable=False, linger_s=LINGER_S, settings={})
    orphan = launch(plan)
    wait_until(lambda: (found := read_postmaster(data)) and found.ready)
    with EmbeddedServer(data, linger_s=LINGER_S) as server:
        assert postmaster(data) == orphan.pid
        assert query(server.url, "select 1") == 1
    wait_until(lambda: not orphan.alive())


def test_it_comes_back_after_the_server_was_killed(data, server):
    query(server.url, "create table kept as select 42 as n")
    pid = postmaster(data)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
    assert query(server.start().url, "select n from kept") == 42


def test_a_pid_file_that_names_another_program_is_no_obstacle(data):
    """Each new container counts its pids from 1, so that a stale file soon names something alive."""
    run_once(data, "select 1")
    wait_until(lambda: not (data / "postmaster.pid").exists())
    owner = data.stat()  # postgres itself sees through a pid of another account
    with subprocess.Popen(["sleep", "60"], user=owner.st_uid if os.geteuid() == 0 else None) as other:
        try:
            stale = data / "postmaster.pid"
            stale.write_text(f"{other.pid}\n{data}\n1\n5432\n/tmp/gone\n\n1 1\nready\n")
            os.chown(stale, owner.st_uid, owner.st_gid)
            assert run_once(data, "select 1") == 1
            assert other.poll() is None
        finally:
            other.kill()


def test_initdb_killed_half_way_leaves_nothing_that_looks_like_a_database(data):
    beside(data, "new").mkdir(parents=True)
    (beside(data, "new") / "PG_VERSION").write_text("18")
    assert run_once(data, "select 1") == 1
    assert not beside(data, "new").exists()


def test_stop_ends_it_for_everybody(data, server, user):
    other = user()
    other.url()
    pid = postmaster(data)
    assert EmbeddedServer(data).stop() is True
    assert not is_alive(pid)
    assert EmbeddedServer(data).stop() is False
    assert query(server.start().url, "select 1") == 1


def removed(directory):
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()


@pytest.mark.parametrize("what", [".", "pg"])
def test_deleting_the_files_starts_afresh(data, server, what):
    query(server.url, "create table kept as select 42 as n")
    pid = postmaster(data)
    wait_until(lambda: removed(data.parent / what))  # postgres may take its own files away meanwhile
    wait_until(lambda: not is_alive(pid), timeout_s=4)  # by itself, postgres looks once a minute
    server.release()
    assert run_once(data, "select to_regclass('kept')") is None


def test_nothing_is_known_before_the_start(data):
    with pytest.raises(DatabaseUnavailable, match="was not started yet"):
        _ = EmbeddedServer(data).url


def test_another_major_version_is_explained(data):
    run_once(data, "select 1")
    wait_until(lambda: read_postmaster(data) is None)
    (data / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(BadConfiguration, match=r"was made by PostgreSQL 9\.6 .* dump and restore it, or choose"):
        EmbeddedServer(data).start()


def test_the_log_says_why_it_did_not_start(data):
    with pytest.raises(DatabaseUnavailable, match=r"did not start; the end of .*pg\.log:\n(?s:.*)no_such_setting"):
        EmbeddedServer(data, durable=False, settings={"no_such_setting": 1}).start()


def test_a_file_in_the_way_is_explained(place):
    (place / "file").write_text("")
    with pytest.raises(DatabaseUnavailable, match=r"cannot use .*/file/pg"):
        EmbeddedServer(place / "file" / "pg").start()


def test_start_gives_up_in_time(data, server):
    """A keeper that does not answer: the lock is held and no server comes up."""
    watcher = keeper(data)
    os.kill(watcher, signal.SIGSTOP)
    try:
        os.kill(postmaster(data), signal.SIGKILL)
        wait_until(lambda: not read_postmaster(data).accepts())
        with pytest.raises(DatabaseUnavailable, match="did not start in time"):
            EmbeddedServer(data).start(timeout_s=0.2)
    finally:
        os.kill(watcher, signal.SIGCONT)


@pytest.mark.skipif(not DEBIAN_15.is_dir(), reason="needs PostgreSQL 15 in /usr/lib/postgresql/15")
def test_it_works_with_postgresql_15(data, monkeypatch):
    monkeypatch.setenv("DBDURABLE_PG_BINDIR", str(DEBIAN_15))
    assert str(run_once(data, "show server_version")).startswith("15.")
