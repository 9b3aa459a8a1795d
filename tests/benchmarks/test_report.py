"""Tables, JSON and charts from figures; the command as people call it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.benchmarks import curves
from tests.benchmarks.__main__ import chosen_loads, main, parsed
from tests.benchmarks.charts import chart_of, write_charts
from tests.benchmarks.loads import BY_REQUEST, IDLE_LOAD, LOADS, QUEUE_LOAD, TEN_LOAD
from tests.benchmarks.measure import Figures
from tests.benchmarks.report import data_of, markdown_of, table_of
from tests.support.databases import scratch_directory

pytestmark = pytest.mark.benchmark

ABOUT = {"processor": "a < b", "Python": "3.11", "commit": "abc"}


def figures_of(names: list[str], **more: Any) -> dict[str, Figures]:
    return {name: Figures([100.0, 300.0, 200.0], [0.5], [1.0], [2.0], **more) for name in names}


def test_a_table_has_a_row_for_everybody_and_says_who_is_missing() -> None:
    data = data_of(TEN_LOAD, "near", figures_of(["hand sync", "dbdurable sync"], counts={"commits": 11.0}))
    table = table_of(data)

    assert table.row_count == len(TEN_LOAD.contestants)
    assert data["rows"][0]["per_s"] == 200
    assert sum("missing" in row for row in data["rows"]) == len(TEN_LOAD.contestants) - 2
    assert "| hand sync | 200 | 0.5 | 1 | 2 | 11 |" in markdown_of(data)


def test_phases_have_columns_when_there_are_several() -> None:
    figures = figures_of(["PgQueuer"], phases={"enqueue": [10.0], "drain": [20.0]})

    headings = [column.header for column in table_of(data_of(QUEUE_LOAD, "near", figures)).columns]

    assert headings[:5] == ["contestant", "jobs/s", "ratio", "enqueue/s", "drain/s"]


def test_times_are_shown_as_percentiles() -> None:
    figures = figures_of(["dbdurable sync"], samples_ms=[1.0, 2.0, 3.0])
    data = data_of(IDLE_LOAD, "far", figures)

    assert data["rows"][0]["ms"]["p50"] == 2
    assert data["rows"][0]["ms"]["worst"] == 3
    assert table_of(data).columns[1].header == "p50 ms"


def test_no_figure_is_cut_however_narrow_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"commits": 11.25, "round_trips": 33.5, "statements": 44.75, "wal_bytes": 5123.0, "hot_ratio": 0.875}
    figures = figures_of(["hand sync"], counts=counts, phases={"enqueue": [1234567.0], "drain": [7654321.0]})
    result = {"about": ABOUT, "quick": False, "loads": [data_of(TEN_LOAD, "near", figures)]}
    file = tmp_path / "result.json"
    file.write_text(json.dumps(result))

    assert main(["--from", str(file)]) == 0

    shown = capsys.readouterr().out
    assert "…" not in shown
    for figure in ("1,234,567", "7,654,321", "11.2", "33.5", "44.8", "5,123", "0.875"):
        assert figure in shown.split()


@pytest.mark.parametrize("load", [TEN_LOAD, QUEUE_LOAD], ids=lambda load: load.name)
def test_a_chart_is_well_formed_and_has_a_bar_for_each_that_took_part(load: object) -> None:
    names = [each.key for each in load.contestants[:3]]  # type: ignore[attr-defined]
    chart = chart_of(data_of(load, "near", figures_of(names)), ABOUT)  # type: ignore[arg-type]
    root = ElementTree.fromstring(chart)

    assert len([each for each in root.iter() if each.tag.endswith("rect")]) == 3
    assert "a < b" in "".join(root.itertext())


def test_charts_of_several_conditions_have_names_of_their_own(tmp_path: Path) -> None:
    figures = figures_of(["hand sync"])
    loads = [data_of(TEN_LOAD, condition, figures) for condition in ("near", "far", "held")]

    written = write_charts({"about": ABOUT, "loads": loads}, tmp_path / "charts")

    assert [path.name for path in written] == ["ten.svg", "ten-far.svg", "ten-held.svg"]


def test_without_names_all_loads_run_but_those_by_request() -> None:
    names = [load.name for load in chosen_loads(parsed([]))]

    assert names == [load.name for load in LOADS if load.name not in BY_REQUEST]
    assert [load.full for load in chosen_loads(parsed(["--loads", "ten", "--sleeping", "5", "--wake", "7"]))] == [
        60, 5, 7
    ]  # fmt: skip


def test_the_command_measures_and_shows_again_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, directory = tmp_path / "result.json", Path(tempfile.mkdtemp(dir=scratch_directory()))
    directory.chmod(0o755)  # as root, the server runs under another account
    what = ["--quick", "--loads", "start", "--contestants", "hand", "dbdurable", "--conditions", "near", "far", "held"]
    assert main([*what, "--directory", str(directory), "--output", str(file), "--json"]) == 0

    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(file.read_text())
    assert [data["condition"] for data in result["loads"]] == ["near", "far", "held"]
    directory.rmdir()  # nothing is left behind in it
    assert "round trip, far" in result["about"]
    by_name = {row["contestant"]: row for row in result["loads"][0]["rows"]}
    assert by_name["hand sync"]["counts"]["commits"] == 2
    assert by_name["hand sync"]["counts"]["round_trips"] == 2

    assert main(["--from", str(file), "--markdown", "--charts", str(tmp_path / "charts")]) == 0
    assert "a workflow without steps" in capsys.readouterr().out
    assert len(list((tmp_path / "charts").iterdir())) == 3


def test_curves_are_shown_and_drawn_from_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cost = {"statements": 7.0, "round_trips": 4.0, "commits": 4.0, "wal_bytes": 1300.0, "cpu_us": 1.0}
    points = [{"size": size, "work": "a start", "pages": pages, **cost} for size, pages in ((0, 10.0), (1_000, 25.5))]
    file, chart = tmp_path / "curves.json", tmp_path / "curves.svg"
    file.write_text(json.dumps({"about": ABOUT, "curves": [{"name": "few", "title": "a < b, c", "points": points}]}))

    assert curves.main(["--from", str(file), "--chart", str(chart), "--markdown"]) == 0

    assert "| a start | 7 | 4 | 4 | 1,300 | 10 | 25.5 |" in capsys.readouterr().out
    drawn = [each.text or "" for each in ElementTree.fromstring(chart.read_text()).iter()]
    assert "pages, by a < b" in drawn
    assert "a start" in drawn
