"""Every bound of the library in one place; units stand last.

They are generous for honest use and exist so that a mistake (a whole table as an argument, a stack trace
of a gigabyte) is refused with a sentence instead of slowing down the database for everybody.
"""

from __future__ import annotations

from typing import Final

# Values
payload_bytes_max: Final = 4 * 1024 * 1024
"""One argument, result, message or event, as JSON in UTF-8; likewise all arguments of a call together."""

json_depth_max: Final = 100
"""Nested arrays and objects of one value."""

int_digits_max: Final = 4300
"""Decimal digits of one int: Python itself refuses to parse longer ones."""

# Names
name_chars_max: Final = 200
"""Workflows, steps, queues, topics, events, schedules."""

key_chars_max: Final = 512
"""The caller's own names: idempotency keys, partitions."""

schema_chars_max: Final = 48
"""Leaves room for suffixes within PostgreSQL's 63 bytes."""

# Recorded errors
message_chars_max: Final = 10_000
"""The text of one error."""

traceback_chars_max: Final = 20_000
"""The traceback of one error; the middle is left out."""

failure_depth_max: Final = 8
"""Errors below an error: causes, contexts and the members of groups."""

group_errors_max: Final = 32
"""Members of one exception group that are recorded."""

notes_max: Final = 32
"""Notes of one error that are recorded."""

failure_value_chars_max: Final = 100_000
"""One argument or attribute of an error as JSON; a longer one is recorded by its repr."""

# What messages to people show
shown_chars_max: Final = 80
"""A value inside of an error message."""

progress_chars_max: Final = 1000
"""The text of progress()."""

# Time
duration_s_max: Final = 100 * 366 * 86_400.0
"""About a hundred years; longer is a mistake of units."""

# Attempts
attempts_max: Final = 32_767
"""What is counted of the attempts of one step: a smallint in its record. Whoever never gives up goes on uncounted."""
