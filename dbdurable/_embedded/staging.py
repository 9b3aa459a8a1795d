"""Root only: a copy of the programs where the account that runs the server can reach them.

A virtualenv under /root is closed to every other account. Opening its directories would change what is not
ours, so the programs are copied once (about 35 MB, 0.1 s) to a directory of root's that all can read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from dbdurable._embedded.account import Account
from dbdurable.errors import DatabaseUnavailable

__all__ = ["reachable_binaries"]

STAGING = Path("/var/tmp/dbdurable-root")  # noqa: S108 - owner and mode are checked before use
PRUNE_AFTER_S = 24 * 3600


def reachable_binaries(bindir: Path, account: Account) -> Path:
    """Return `bindir`, or the bin directory of a copy of it where `account` can run the programs.

    Raises:
        DatabaseUnavailable: the directory for copies belongs to someone else.
    """
    if not account.switch or account.succeeds([str(bindir / "postgres"), "-V"]):
        return bindir
    _claim_staging()
    source = bindir.parent
    copy = STAGING / f"pg-{_fingerprint(source)}"
    if not copy.exists():
        _copy(source, copy)
    os.utime(copy)  # in use today: not to be pruned
    _prune(keep=copy)
    return copy / source.parent.name / source.name / bindir.name


def _claim_staging() -> None:
    with suppress(FileExistsError):
        STAGING.mkdir()
        STAGING.chmod(0o755)  # whatever the umask
    found = STAGING.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise DatabaseUnavailable(
            f"{STAGING} is not a directory that only root can write to, so no programs are run from it: "
            "remove it, or set DBDURABLE_DATABASE_URL"
        )


def _fingerprint(source: Path) -> str:
    changed_ns = (source / "bin" / "postgres").stat().st_mtime_ns
    return hashlib.sha256(f"{source}\0{changed_ns}".encode()).hexdigest()[:12]


def _copy(source: Path, copy: Path) -> None:
    # The wheel's programs find their libraries by relative path, in the package's sibling "<package>.libs".
    package = source.parent
    libraries = package.with_name(f"{package.name}.libs")
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=STAGING))
    for part in ("bin", "lib", "share"):
        if (source / part).is_dir():
            shutil.copytree(source / part, draft / package.name / source.name / part, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, draft / libraries.name, symlinks=True)
    (draft / "source").write_text(str(source))
    for path in (draft, *draft.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o555 if path.is_dir() or mode & stat.S_IXUSR else mode | 0o444)
    try:
        draft.rename(copy)
    except OSError:  # another process was faster
        shutil.rmtree(draft, ignore_errors=True)
        if not copy.exists():
            raise


def _prune(keep: Path) -> None:
    """Remove drafts and copies whose original changed or is gone, if nothing was started from them lately."""
    for copy in STAGING.iterdir():
        with suppress(OSError):
            if copy == keep or time.time() - copy.stat().st_mtime < PRUNE_AFTER_S or _current(copy):
                continue
            shutil.rmtree(copy, ignore_errors=True)


def _current(copy: Path) -> bool:
    try:
        return copy.name == f"pg-{_fingerprint(Path((copy / 'source').read_text()))}"
    except OSError:
        return False
