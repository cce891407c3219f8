"""Untrusted text (names of runs, attributes) as a file name, in Markdown, logs and terminals."""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

MAX_NAME = 120  # bytes of a name that `safe_name` makes; file systems stop at 255
UNSAFE = re.compile(  # in a file name; devices of Windows, hidden files and options among them
    r"[^\w.,=+-]|^[.-]|\.\Z|^(?:con|prn|aux|nul|com\d|lpt\d)(?=\.|\Z)", re.IGNORECASE
)
DIGEST = re.compile(r"-[0-9a-f]{8}\Z")
MARKDOWN = re.compile(  # signs with a meaning; an underscore has none within a word
    r"[\\`*\[\]<>&|~$#]|(?<![^\W_])_|_(?![^\W_])|^[+-](?=[+\s-]|\Z)|:(?=//)|(?<=www)\."
)
NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|\Z)")  # an item of a list


class LineFormatter(logging.Formatter):
    """A formatter that writes a log record on one line, control characters as their escapes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


class Markdown(str):
    """Text that is Markdown already."""


def safe_name(text: str, limit: int = MAX_NAME, *, digest: bool = False) -> str:
    """Return `text` as the name of a file or folder: safe on any file system, unique per text.

    A text that is no such name, or is longer than `limit` bytes, gets a digest at its end, and
    so does a text that ends like one.

    >>> safe_name("loss.beta=1e-05,model.latent_dim=64")
    'loss.beta=1e-05,model.latent_dim=64'
    """
    safe = UNSAFE.sub("_", unicodedata.normalize("NFC", text)) or "_"
    content = safe.encode()
    if safe == text and len(content) <= limit and not digest and not DIGEST.search(text):
        return safe
    number = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{content[:limit].decode(errors='ignore')}-{number}"


def safe_names(texts: Sequence[str], limit: int = MAX_NAME) -> list[str]:
    """Return `safe_name` of each text, with a digest where two texts differ in case alone."""
    alike = Counter(text.casefold() for text in set(texts))
    return [safe_name(text, limit, digest=alike[text.casefold()] > 1) for text in texts]


def printable(text: str) -> str:
    r"""Return `text` on one line, each control character as its escape: for terminals and logs.

    >>> printable("a\x1b[31m\nb")
    'a\\x1b[31m\\nb'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def truncate(text: str, limit: int) -> str:
    """Return at most `limit` characters of `text`, with "..." in place of the rest."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: "1 run", "2,000 runs"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def markdown_text(text: str) -> Markdown:
    """Return `text` as Markdown that shows it literally, in a paragraph, heading or table cell.

    White space becomes single spaces, as HTML shows it.

    >>> markdown_text("<img> *bold*|")
    '\\\\<img\\\\> \\\\*bold\\\\*\\\\|'
    """
    shown = MARKDOWN.sub(r"\\\g<0>", printable(" ".join(text.split())))
    return Markdown(NUMBERED.sub(r"\1\\\2", shown))


def markdown_code(text: str) -> Markdown:
    """Return `text` as inline code of Markdown, whatever backticks it holds.

    >>> markdown_code("a`b")
    '``a`b``'
    """
    shown = printable(text)
    if "|" in shown or not shown.strip():  # in a table, it would end the cell within the code
        return markdown_text(shown)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " * any(shown.startswith(c) or shown.endswith(c) for c in "` ")
    return Markdown(f"{fence}{space}{shown}{space}{fence}")


def markdown_block(lines: Sequence[str], language: str = "") -> Markdown:
    """Return lines as a block of code, whatever backticks they hold."""
    shown = "\n".join(map(printable, lines))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return Markdown(f"{fence}{language}\n{shown}\n{fence}")


def hydra_value(text: str) -> str:
    r"""Return `text` as a value on Hydra's command line, quoted where its grammar needs that.

    >>> hydra_value("/runs/my run (1)")
    "'/runs/my run (1)'"
    """
    number = r"-?([\d._]*(e-?[\d_]+)?|inf|nan)\Z"
    if re.fullmatch(rf"(?!{number})[\w./-]*[/_-][\w./-]*", text, re.ASCII | re.IGNORECASE):
        return text
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    doubled = re.sub(r"\\+(?='|\Z)", lambda found: found[0] * 2, literal)
    return "'" + doubled.replace("'", "\\'") + "'"
