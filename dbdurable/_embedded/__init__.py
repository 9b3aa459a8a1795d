"""The embedded PostgreSQL, used when no database URL is set.

Any number of processes share the server of one data directory. Each holds a shared lock on a file beside it,
which the kernel gives back however the process ends; a small keeper process owns the server and stops it
when nobody holds the lock any more. There are no pid files to go stale and nothing to clean up at exit.

POSIX only. `start_default()` is what `Durable()` calls; `EmbeddedServer` is for tests and tools.
"""

from __future__ import annotations

from dbdurable._embedded.binaries import find_binaries
from dbdurable._embedded.default import default_location, start_again, start_default
from dbdurable._embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer", "default_location", "find_binaries", "start_again", "start_default"]
