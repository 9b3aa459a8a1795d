"""`list`, `show`, `steps`, `failures`, `executors`."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Cli, Shop


def test_list_shows_the_newest_first(cli: Cli, shop: Shop):
    lines = cli("list", url=shop.url).stdout.splitlines()
    assert lines[0].split() == ["id", "name", "status", "started", "queue", "key", "reason"]
    assert [line.split()[0] for line in lines[2:]] == [
        shop.ids[status] for status in ("cancelled", "queued", "failed", "succeeded")
    ]
    assert "ago" in lines[2] or "just now" in lines[2]
    assert " chan" in lines[2]
    assert max(map(len, lines)) <= 100


def test_list_by_status_and_name_as_json(cli: Cli, shop: Shop):
    (found,) = json.loads(cli("list", "--status", "failed", "--json", url=shop.url).stdout)
    assert found["id"] == shop.ids["failed"]
    assert found["error_message"] == "card 13 was refused"
    assert json.loads(cli("list", "--name", "nobody", "--json", url=shop.url).stdout) == []
    assert cli("list", "--name", "nobody", url=shop.url).stdout == "no workflows like that\n"
    assert len(json.loads(cli("list", "-n", "2", "--json", url=shop.url).stdout)) == 2


def test_the_url_may_stand_before_the_command(cli: Cli, shop: Shop):
    assert len(json.loads(cli("--url", shop.url, "list", "--json").stdout)) == 4


def test_show_has_fields_input_output_and_steps(cli: Cli, shop: Shop):
    out = cli("show", shop.ids["succeeded"], url=shop.url).stdout
    for part in ("succeeded", "order-42", '"order_id": 42', '"receipt-42"', "reserve", "transaction", "12.50"):
        assert part in out


def test_show_as_json_has_real_json(cli: Cli, shop: Shop):
    found = json.loads(cli("show", shop.ids["succeeded"], "--json", url=shop.url).stdout)
    assert found["input"] == {"order_id": 42, "gift": True}
    assert found["output"] == {"amount": "12.50", "receipt": "receipt-42"}
    assert [step["name"] for step in found["steps"]] == ["reserve", "charge"]


def test_show_of_a_failure_has_the_frames_of_the_application_only(cli: Cli, shop: Shop):
    out = cli("show", shop.ids["failed"], url=shop.url).stdout
    assert "ValueError: card 13 was refused" in out
    assert "tests/cli/conftest.py" in out
    assert "_protocol" not in out


def test_steps(cli: Cli, shop: Shop):
    lines = cli("steps", shop.ids["failed"], url=shop.url).stdout.splitlines()
    assert lines[2].split()[:4] == ["1", "reserve", "transaction", "succeeded"]
    assert "ValueError: card 13 was refused" in lines[3]
    assert cli("steps", shop.ids["queued"], url=shop.url).stdout == "no steps recorded yet\n"
    assert json.loads(cli("steps", shop.ids["failed"], "--json", url=shop.url).stdout)[0]["output"] == "12.50"


def test_failures_and_executors(cli: Cli, shop: Shop):
    (found,) = json.loads(cli("failures", "--json", url=shop.url).stdout)
    assert (found["id"], found["status"]) == (shop.ids["failed"], "failed")
    assert shop.ids["failed"] in cli("failures", url=shop.url).stdout
    assert json.loads(cli("executors", "--json", url=shop.url).stdout) == []
    assert cli("executors", url=shop.url).stdout.startswith("no executor is running")


def test_an_id_may_be_given_by_its_first_digits(cli: Cli, shop: Shop):
    id = shop.ids["succeeded"]
    assert json.loads(cli("show", id[:30], "--json", url=shop.url).stdout)["id"] == id
    assert json.loads(cli("show", id.replace("-", "").upper(), "--json", url=shop.url).stdout)["id"] == id
    assert json.loads(cli("show", id[:24], "--json", url=shop.url).stdout)["id"] == id


def test_an_ambiguous_prefix_names_the_candidates(cli: Cli, shop: Shop):
    refused = cli("show", shop.ids["succeeded"][:7], url=shop.url)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("more than one id begins with")
    assert all(id in refused.stderr for id in shop.ids.values())


@pytest.mark.parametrize(
    ("id", "says"),
    [
        ("00000000-0000-0000-0000-000000000000", "there is no workflow 00000000-0000-0000-0000-000000000000"),
        ("ffffffff", "no workflow in schema 'dbdurable' has an id that begins with ffffffff"),
        ("0192", "'0192' is no workflow id: pass a UUID, or at least its first 6 digits"),
        ("not-an-id", "'not-an-id' is no workflow id"),
        ("%", "'%' is no workflow id"),
        ("0" * 33, "is no workflow id"),
    ],
)
def test_ids_that_are_none(cli: Cli, shop: Shop, id: str, says: str):
    for command in ("show", "steps", "result", "cancel", "pause", "resume"):
        refused = cli(command, id, url=shop.url)
        assert refused.exit_code == 1
        assert says in refused.stderr
        assert not refused.stdout


def test_a_status_that_is_none(cli: Cli, shop: Shop):
    refused = cli("list", "--status", "done", url=shop.url)
    assert refused.exit_code == 2
    assert "'succeeded'" in refused.stderr


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cret@127.0.0.1:1/shop",
        "mysql://ann:s3cret@127.0.0.1/shop",
        "postgresql://ann:s3cret@[::1/shop",
        "host=127.0.0.1 port=1 user=ann password=s3cret",
        "postgresql+asyncpg://ann:s3cret@127.0.0.1/shop",
        "s3cret",
    ],
)
def test_a_bad_url_is_one_sentence_without_its_password(cli: Cli, url: str):
    for command in (["list"], ["migrate", "--check"], ["sql", "select 1"]):
        refused = cli(*command, url=url)
        assert refused.exit_code == 1
        assert len(refused.stderr.splitlines()) == 1
        assert "s3cret" not in refused.output


def test_tables_that_are_missing(cli: Cli, empty_database_url: str):
    refused = cli("list", url=empty_database_url)
    assert refused.exit_code == 1
    assert "run `dbdurable migrate`" in refused.stderr
    assert "'elsewhere'" in cli("list", "--schema", "elsewhere", url=empty_database_url).stderr
    assert "no schema name" in cli("list", "--schema", "Robert'); --", url=empty_database_url).stderr
