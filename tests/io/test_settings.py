"""Where settings come from, and the sentence for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbdurable._core.names import check_schema
from dbdurable.errors import BadConfiguration
from dbdurable.settings import load_settings, mask_url

SECRET = "s3cr3t/@:"


def test_defaults():
    settings = load_settings()
    assert settings.url is None
    assert settings.schema_name == "dbdurable"
    assert settings.migrate is True
    assert settings.embedded == "auto"
    assert (settings.lease_ttl_s, settings.beat_interval_s) == (15.0, 2.0)


def test_argument_then_own_variable_then_common_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://common/db")
    assert load_settings().url == "postgresql://common/db"
    monkeypatch.setenv("DBDURABLE_DATABASE_URL", "postgresql://own/db")
    assert load_settings().url == "postgresql://own/db"
    assert load_settings("postgresql://argument/db").url == "postgresql://argument/db"


def test_variables_override_the_env_file_and_arguments_override_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = tmp_path / ".env"
    file.write_text("DBDURABLE_SCHEMA=from_file\nDBDURABLE_LEASE_TTL_S=60\nSOMEBODY_ELSES=1\n")
    monkeypatch.setenv("DBDURABLE_ENV_FILE", str(file))
    assert (load_settings().schema_name, load_settings().lease_ttl_s) == ("from_file", 60)
    monkeypatch.setenv("DBDURABLE_SCHEMA", "from_variable")
    assert load_settings().schema_name == "from_variable"
    assert load_settings(schema="from_argument").schema_name == "from_argument"
    assert load_settings(schema=None).schema_name == "from_variable"


def test_env_file_in_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://file/db\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBDURABLE_ENV_FILE")
    assert load_settings().url == "postgresql://file/db"


def test_variables_of_others_are_not_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCHEMA", "theirs")
    monkeypatch.setenv("SCHEMA_NAME", "theirs")
    monkeypatch.setenv("FALLBACK_URL", "postgresql://theirs/db")
    monkeypatch.setenv("DBDURABLE_DATABASE_URL", "")
    assert load_settings().schema_name == "dbdurable"
    assert load_settings().url is None


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg_async"])
def test_urls_of_psycopg_and_sqlalchemy(scheme: str):
    assert load_settings(f"{scheme}://u:p@h/d?sslmode=require").url == "postgresql://u:p@h/d?sslmode=require"


def test_conninfo_of_libpq():
    assert load_settings("host=/run/pg dbname=shop").url == "host=/run/pg dbname=shop"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"postgresql+asyncpg://u:{SECRET}@h/d", "'asyncpg'"),
        (f"postgresql+psycopg2://u:{SECRET}@h/d", "postgresql+psycopg://"),
        (f"mysql://u:{SECRET}@h/d", "'mysql'"),
        ("shop", "not a URL"),
        ("", "not a URL"),
    ],
)
def test_other_drivers_and_databases_are_refused(url: str, words: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BadConfiguration, match="the database URL") as caught:
        load_settings(url)
    assert words in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    if url:
        monkeypatch.setenv("DATABASE_URL", url)
        with pytest.raises(BadConfiguration, match="DATABASE_URL") as caught:
            load_settings()
        assert "s3cr3t" not in str(caught.value)


def test_a_url_that_does_not_count_is_not_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", "sqlite:///db")
    assert load_settings(embedded="always").url is None
    assert load_settings("postgresql://h/d").url == "postgresql://h/d"


def test_where_to_listen(monkeypatch: pytest.MonkeyPatch):
    assert load_settings().listen_url_for("postgresql://h/d") == "postgresql://h/d"
    monkeypatch.setenv("DBDURABLE_LISTEN_URL", "postgresql+psycopg://u:p@direct/d")
    assert load_settings().listen_url_for("postgresql://h/d") == "postgresql://u:p@direct/d"
    monkeypatch.setenv("DBDURABLE_LISTEN_URL", "never")
    assert load_settings().listen_url_for("postgresql://h/d") is None
    for bad in ("mysql://u:s3cr3t@h/d", "sometimes"):
        monkeypatch.setenv("DBDURABLE_LISTEN_URL", bad)
        with pytest.raises(BadConfiguration, match=r"^DBDURABLE_LISTEN_URL ") as caught:
            load_settings()
        assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lease_ttl_s", "soon"),
        ("lease_ttl_s", "0"),
        ("embedded", "maybe"),
        ("schema", 'x"; drop table y; --'),
        ("schema", "pg-main"),
        ("schema", "Upper"),
        ("schema", "a" * 49),
        ("schema", "1st"),
        ("schema", "line\n"),
    ],
)
def test_bad_values_name_the_variable_or_argument(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BadConfiguration, match=f"^{name}= cannot be used: "):
        load_settings(**{name: value})
    monkeypatch.setenv(f"DBDURABLE_{name.upper()}", value)
    with pytest.raises(BadConfiguration, match=f"^DBDURABLE_{name.upper()} cannot be used: ") as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_one_slow_beat_must_not_end_a_lease():
    with pytest.raises(BadConfiguration, match="DBDURABLE_BEAT_INTERVAL_S"):
        load_settings(lease_ttl_s=5)


def test_unknown_settings_are_told():
    with pytest.raises(BadConfiguration, match="'lease_ttl'; did you mean 'lease_ttl_s'"):
        load_settings(lease_ttl=3)
    with pytest.raises(BadConfiguration, match="'fallback_url'"):
        load_settings(fallback_url="postgresql://h/d")


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().migrate = False


def test_passwords_are_never_shown():
    settings = load_settings("postgresql://u:s3cr3t@h/d")
    assert settings.url is not None
    assert "s3cr3t" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://u:s3cr3t@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql+psycopg://u:s3/c@r3t@h/d", "postgresql+psycopg://u:***@h/d"),
        ("see postgresql://u:s3cr3t @h/d now", "see postgresql://u:***@h/d now"),
        ("postgresql://u@h/d?password=s3cr3t&x=1", "postgresql://u@h/d?password=***&x=1"),
        ("host=h password='s3 \\' cr3t' user=u", "host=h password=*** user=u"),
        ("host=h PASSWORD = s3cr3t", "host=h PASSWORD = ***"),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d"),
        ("postgresql://h:5432/d", "postgresql://h:5432/d"),
        ("nothing here", "nothing here"),
    ],
)
def test_mask_url(text: str, masked: str):
    assert mask_url(text) == masked


@pytest.mark.parametrize("name", ["dbdurable", "_", "a" * 48, "user", "a" * 49, "1a", "A", "a-b", "a\n", "", 'a"'])
def test_the_two_rules_for_schema_names_agree(name: str):
    def accepts(rule: object) -> bool:
        try:
            rule(name)  # type: ignore[operator]
        except BadConfiguration:
            return False
        return True

    assert accepts(check_schema) == accepts(lambda text: load_settings(schema=text))
