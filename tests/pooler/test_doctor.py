"""What `dbdurable doctor` says of the way through a pooler."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from dbdurable.cli import doctor_server
from dbdurable.cli.commands import app


def found(url: str) -> dict[str, str]:
    report = json.loads(CliRunner().invoke(app, ["doctor", "--json", "--url", url]).stdout)
    return {finding["check"]: finding["found"] for finding in report["findings"] if finding["check"] != "settings"}


def test_doctor_notices_the_pooler_and_that_nobody_can_listen(
    pooled_url: str, direct_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor_server, "LISTEN_TIMEOUT_S", 0.5)
    assert found(direct_url) == {}
    findings = found(pooled_url)
    assert set(findings) == {"pooler", "listen"}
    assert findings["pooler"] == "a pooler stands between here and the server"
    assert findings["listen"].startswith("LISTEN does not work: executors find new work by polling only")
    monkeypatch.setenv("DBDURABLE_LISTEN_URL", direct_url)
    assert set(found(pooled_url)) == {"pooler"}
