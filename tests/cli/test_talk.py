"""`send`, `resolve`, `reject`, and progress in `list` and `show`."""

from __future__ import annotations

from dbdurable import Durable, progress, promise, recv, set_event
from dbdurable.errors import PromiseRejected
from tests.cli.conftest import Cli


def test_a_person_answers_from_a_shell(cli: Cli, durable: Durable, database_url: str):
    @durable.workflow
    def order(item: str) -> list[object]:
        progress(1, 2, "waits for approval")
        approval = recv("approval")
        signature, payment = promise("signature", str), promise("payment", int)
        set_event("tokens", [signature.token, payment.token])
        try:
            payment.result()
        except PromiseRejected as rejected:
            return [approval, signature.result(), str(rejected)]
        return []

    with durable.executor():
        handle = order.start("book")
        shown = cli("send", str(handle.id), "approval", '{"by": "ann"}', url=database_url)
        assert (shown.exit_code, shown.stdout) == (0, "")
        signature, payment = handle.get_event("tokens", list[str], timeout=20)
        assert cli("reject", payment, "no money", url=database_url).exit_code == 0
        assert cli("resolve", signature, '"sig"', url=database_url).exit_code == 0
        assert handle.result(timeout=20) == [{"by": "ann"}, "sig", "no money"]
        late = cli("resolve", signature, '"sig"', url=database_url)
        assert late.exit_code == 1
        assert "was completed before" in late.stderr
        assert "no workflow has made a promise" in cli("resolve", "x", url=database_url).stderr
        assert "is not JSON" in cli("send", str(handle.id), "approval", "{", url=database_url).stderr
    for command in (["list"], ["show", str(handle.id)]):
        assert "1 of 2 waits for" in cli(*command, url=database_url).stdout
