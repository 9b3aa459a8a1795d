"""One application on a fresh database."""

from __future__ import annotations
