"""What reaches users: the wheel holds the migrations, the pins hold what pyproject.toml asks for."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())


def declared() -> list[Requirement]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    return [r for r in map(Requirement, texts) if r.name != "dbdurable"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that the build leaves nothing in the working tree."""
    copy = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("dbdurable", "migrations", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", "."]
    if importlib.util.find_spec("hatchling"):  # else pip fetches it into an environment of its own
        command.insert(-1, "--no-build-isolation")
    subprocess.run(command, cwd=copy, check=True)
    return next((copy / "dist").glob("*.whl"))


def test_the_wheel_ships_the_migrations(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        shipped = {
            Path(name).name: archive.read(name)
            for name in archive.namelist()
            if name.startswith("dbdurable/migrations/")
        }
        assert "dbdurable/py.typed" in archive.namelist()
        assert not [n for n in archive.namelist() if not n.startswith(("dbdurable/", "dbdurable-"))]
    assert shipped == {path.name: path.read_bytes() for path in (ROOT / "migrations").glob("*.sql")}


def test_the_wheel_ships_the_demos_cities(wheel: Path):
    data = ROOT / "examples" / "data"
    with zipfile.ZipFile(wheel) as archive:
        for name in ("cities.csv", "README.md"):  # the licence asks for the attribution
            assert archive.read(f"dbdurable/cli/data/{name}") == (data / name).read_bytes()


def test_the_wheel_finds_its_own_migrations(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from dbdurable._io import migration_files as m\n"
        f"assert m.__file__.startswith({str(tmp_path)!r}), m.__file__\n"
        "print(*(file.checksum for file in m.load_migrations()))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    from dbdurable._io.migration_files import load_migrations

    assert run.stdout.split() == [file.checksum for file in load_migrations()]


def test_every_dependency_is_pinned_to_what_is_asked_for():
    for requirement in declared():
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} does not allow {pin}"


def test_the_drivers_pins_go_together():
    # psycopg 3.3.9 is five times faster in asynchronous pipelines than 3.3.8.
    assert PINS["psycopg"] == PINS["psycopg-binary"] == "3.3.9"


def test_pins_name_no_host_and_no_machine():
    for name, version in PINS.items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version)


def test_every_dependency_has_its_reason():
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    for requirement in declared():
        assert f"`{requirement.name}`" in reasons, f"docs/dependencies.md says nothing on {requirement.name}"
