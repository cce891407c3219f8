"""Log records on one line each: names of files and folders in them are untrusted."""

from __future__ import annotations

import logging

from vae.utils.text import printable


class LineFormatter(logging.Formatter):
    """A formatter that escapes line breaks and control characters in a record's message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))
