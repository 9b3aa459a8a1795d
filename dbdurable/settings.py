"""What can be configured, and where it comes from: arguments, `DBDURABLE_*` variables, `.env`.

Reading settings costs about 60 ms of imports, so nothing imports this module before it is needed.
Every mistake becomes one `BadConfiguration` sentence that names the variable and never shows a password.
"""

from __future__ import annotations

import difflib
import os
import re
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from dbdurable.errors import BadConfiguration

__all__ = ["Settings", "load_settings", "mask_url"]

# The same rule as `_core.names.check_schema` (a test compares them): this module stands below `_core`.
SCHEMA_PATTERN = r"[a-z_][a-z0-9_]{0,47}"

_SCHEMES = {"postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg_async"}

# Greedy up to the last @: a password may itself hold @ and /. Rather too much is hidden than too little.
_PASSWORD_IN_URL = re.compile(r"([a-z][a-z0-9+.-]*://[^:/?#\s@]*):(?:\S*@|[^\n]*?@)", re.IGNORECASE)
_PASSWORD_PARAMETER = re.compile(r"(password\s*=\s*)(?:'(?:\\.|[^'\\])*'|[^\s&]+)", re.IGNORECASE)


def mask_url(text: str) -> str:
    """The text with the passwords of connection strings hidden.

    Example:
        >>> mask_url("postgresql://shop:s3cret@db/shop")
        'postgresql://shop:***@db/shop'
        >>> mask_url("host=db password='s3 cret' user=shop")
        'host=db password=*** user=shop'
    """
    return _PASSWORD_PARAMETER.sub(r"\1***", _PASSWORD_IN_URL.sub(r"\1:***@", text))


class Settings(BaseSettings):
    """The settings of one application; made by `load_settings`, immutable."""

    model_config = SettingsConfigDict(
        env_prefix="DBDURABLE_",
        env_ignore_empty=True,  # DATABASE_URL="" in a shell or a CI file means "not set"
        extra="ignore",  # .env belongs to the whole application
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = None
    """Where the tables are; `DATABASE_URL` when this is not set. None: the embedded server."""

    schema_name: str = Field("dbdurable", validation_alias="DBDURABLE_SCHEMA")
    """The schema of the tables: one schema is one application. Set by `schema=` or `DBDURABLE_SCHEMA`."""

    migrate: bool = True
    """Create and upgrade the tables at the first use; else they must be current."""

    embedded: Literal["auto", "never", "always"] = "auto"
    """A PostgreSQL of our own: when no URL is given, never, or always (URLs are then ignored)."""

    lease_ttl_s: float = Field(15.0, ge=1, le=3600)
    """So long after its last heartbeat an executor counts as dead."""

    beat_interval_s: float = Field(2.0, ge=0.05, le=600)
    """Time between two heartbeats."""

    poll_interval_s_max: float = Field(1.0, ge=0.01, le=600)
    """The longest pause between two looks at the queues where no notification arrives."""

    listen_url: SecretStr | None = None
    """Where executors listen for wake-ups; None: the database's URL; "never": they only poll."""

    prepare: Literal["auto", "never", "always"] = "auto"
    """Prepared statements: where no pooler stands between, never, or always (PgBouncer's max_prepared_statements)."""

    determinism: Literal["warn", "raise", "off"] = "warn"
    """What happens when the body of a workflow calls a clock, a random source, a sleep or the network itself."""

    park_after_s: float = Field(1.0, ge=0, le=3600)
    """A wait in a workflow that takes longer gives its thread and memory back."""

    code_version: str = ""
    """Names the deployed code, so that a workflow that one version blocked can say which."""

    # DATABASE_URL may be meant for somebody else (embedded=always, or our own variable is set too), so it
    # is looked at only when it counts.
    fallback_url: SecretStr | None = Field(None, validation_alias="DATABASE_URL", repr=False)

    @field_validator("schema_name")
    @classmethod
    def _valid_schema(cls, value: str) -> str:
        if not re.fullmatch(SCHEMA_PATTERN, value):
            raise ValueError(
                f"{value[:60]!r} is no schema name for dbdurable: use lower-case letters, digits and _, "
                "at most 48, not starting with a digit"
            )
        return value

    @model_validator(mode="after")
    def _three_beats_in_a_lease(self) -> Settings:
        if self.beat_interval_s * 3 > self.lease_ttl_s:
            raise ValueError(
                f"DBDURABLE_BEAT_INTERVAL_S ({self.beat_interval_s:g}) must be at most a third of "
                f"DBDURABLE_LEASE_TTL_S ({self.lease_ttl_s:g}): one slow beat would end every lease"
            )
        return self

    @property
    def url(self) -> str | None:
        """The URL to connect to, for libpq; None when only the embedded server is left.

        Raises:
            BadConfiguration: The URL is not one of PostgreSQL.
        """
        if self.embedded == "always":
            return None
        for secret, origin in (
            (self.database_url, "DBDURABLE_DATABASE_URL"),
            (self.fallback_url, "DATABASE_URL"),
        ):
            if secret is not None:
                return _libpq_url(secret.get_secret_value(), origin)
        return None

    def listen_url_for(self, database_url: str) -> str | None:
        """The URL to listen at, for an application whose database is at `database_url`; None: it only polls.

        Raises:
            BadConfiguration: The URL is not one of PostgreSQL.
        """
        if self.listen_url is None:
            return database_url
        said = self.listen_url.get_secret_value().strip()
        return None if said == "never" else _libpq_url(said, "DBDURABLE_LISTEN_URL")


def load_settings(url: str | None = None, **overrides: Any) -> Settings:
    """Reads the settings; arguments win over `DBDURABLE_*` variables, those over `.env`.

    Args:
        url: The database; None means the variables decide.
        **overrides: Any setting by its name, and `schema`; None means "not given".

    Raises:
        BadConfiguration: A value that cannot be used; the message names the argument or variable.
    """
    given = {_field(name): value for name, value in overrides.items() if value is not None}
    if url is not None:
        given["database_url"] = _libpq_url(url, "the database URL")
    # Another file than ./.env, for services whose working directory is not their own (and for tests).
    env_file = os.environ.get("DBDURABLE_ENV_FILE") or ".env"
    try:
        settings = Settings(**{"_env_file": env_file, **given})
    except ValidationError as error:
        raise BadConfiguration(_sentence(error, given)) from None
    except UnicodeDecodeError:
        raise BadConfiguration(f"{env_file} is not UTF-8 text") from None
    # A wrong URL is an error of configuration: say so now, not at the first connection.
    _ = settings.url, settings.listen_url_for("")
    return settings


def _field(name: str) -> str:
    """The field that an override sets; `schema` is a method of every pydantic model, hence the other name."""
    if name == "schema":
        return "schema_name"
    if name in Settings.model_fields and name != "fallback_url":
        return name
    known = [
        "schema",
        *(field for field in Settings.model_fields if field not in ("schema_name", "fallback_url")),
    ]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(known))}"
    raise BadConfiguration(f"there is no setting {name!r}; {hint}")


def _libpq_url(text: str, origin: str) -> str:
    """The URL as libpq takes it: SQLAlchemy's driver is stripped, other databases are refused.

    libpq's other form, `host=... dbname=...`, passes as it is.
    """
    scheme, found, rest = text.strip().partition("://")
    if not found:
        if "=" in scheme:
            return scheme
        raise BadConfiguration(f"{origin} is not a URL; write postgresql://user:password@host:5432/database")
    dialect, _, driver = scheme.lower().partition("+")
    if f"{dialect}+{driver}".rstrip("+") in _SCHEMES:
        return f"postgresql://{rest}"
    if dialect in ("postgresql", "postgres"):
        raise BadConfiguration(
            f"{origin} asks for the driver {driver[:20]!r}, but dbdurable talks through psycopg; "
            "write postgresql+psycopg://... or postgresql://..."
        )
    raise BadConfiguration(
        f"{origin} is for {dialect[:20]!r}, but dbdurable needs PostgreSQL; write postgresql://user:password@host/database"
    )


def _sentence(error: ValidationError, given: dict[str, Any]) -> str:
    """One sentence on the first mistake; the input is repeated only where it cannot be a secret."""
    first = error.errors(include_url=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    field = str(first["loc"][0]).removeprefix("DBDURABLE_").lower().removesuffix("_name")
    argument = "schema_name" if field == "schema" else field
    name = f"{field}=" if argument in given else f"DBDURABLE_{field.upper()}"
    if "url" in field:
        return f"{name} cannot be used: {message}"
    shown = "" if "no schema name" in message else f", not {str(first['input'])[:60]!r}"
    return f"{name} cannot be used: {message[:1].lower()}{message[1:]}{shown}"
