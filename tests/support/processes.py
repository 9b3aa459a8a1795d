"""Processes as the kernel sees them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_alive", "is_frozen", "resident_kb"]


def is_alive(pid: int) -> bool:
    """Whether it runs, or could (a zombie could not)."""
    return _state(pid) not in ("", "Z")


def is_frozen(pid: int) -> bool:
    """Whether SIGSTOP has reached it."""
    return _state(pid) == "T"


def resident_kb(pid: int) -> int:
    """What it has in memory; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
