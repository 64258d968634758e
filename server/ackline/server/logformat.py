"""How the command writes its log: lines for people, or JSON for machines.

The library itself configures nothing (`logging` is the embedding program's); what its
lines are about comes as arguments (`About`), which these formatters look for. The
standard library's logging and thirty lines do: what structlog and its like add is for
programs that configure how everything in them logs.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ackline.server.about import About

if TYPE_CHECKING:
    from typing import TextIO

__all__ = [
    "LOG_FORMATS",
    "LOG_LEVELS",
    "HumanFormatter",
    "JsonFormatter",
    "log_to",
]

LOG_LEVELS = ("debug", "info", "warning", "error")

LOG_FORMATS = ("auto", "human", "json")
"""`auto`: for people on a terminal, else JSON."""

_ADDED = ("identity", "peer", "trace_id")
"""Fields that people are told too, where the text does not say them."""

# Texts have names from the network in them: they must not begin lines of their own, or
# tell a terminal what to do.
_CONTROL = {
    number: f"\\x{number:02x}"
    for number in (*range(32), *range(127, 160))
    if number != 9
}


class HumanFormatter(logging.Formatter):
    """Lines as `10:11:12 INFO    session … resumed  (identity=…)`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """Add what the text lacks."""
        said = record.message = record.message.translate(_CONTROL)
        more = " ".join(
            f"{name}={str(value).translate(_CONTROL)}"
            for name, value in _fields(record).items()
            if name in _ADDED and str(value) not in said
        )
        line = super().formatMessage(record)
        return f"{line}  ({more})" if more else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, fields, error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as one line."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, str | int] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to(stream: TextIO, *, level: str, form: str) -> None:
    """Write the log of this process to a stream.

    Args:
        stream: such as standard error.
        level: one of `LOG_LEVELS`.
        form: one of `LOG_FORMATS`.
    """
    people = form == "human" or (form == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(HumanFormatter() if people else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _fields(record: logging.LogRecord) -> dict[str, str | int]:
    args = record.args if isinstance(record.args, tuple) else ()
    fields: dict[str, str | int] = {}
    for each in args:
        if isinstance(each, About):
            fields |= each.fields
    return fields
