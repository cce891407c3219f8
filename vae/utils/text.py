"""Untrusted text (names of runs, attributes, files) as a file name, in Markdown, on terminals."""

from __future__ import annotations

import hashlib
import re

MAX_NAME = 120  # bytes of a name that `safe_name` makes; file systems stop at 255


def safe_name(text: str, limit: int = MAX_NAME) -> str:
    """Return `text` as the name of a file or folder: safe on any file system, unique per text.

    A text that is no such name, or is longer than `limit` bytes, gets a digest at its end.

    >>> safe_name("loss.beta=1e-05,model.latent_dim=64")
    'loss.beta=1e-05,model.latent_dim=64'
    """
    safe = re.sub(r"[^\w.,=+-]", "_", text)
    content = safe.encode()
    if safe == text and 0 < len(content) <= limit and safe.strip(".") == safe:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{content[:limit].decode(errors='ignore').strip('.')}-{digest}"


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


def markdown_text(text: str) -> str:
    """Return `text` as Markdown that shows it literally, in a paragraph, heading or table cell.

    >>> markdown_text("<img> *bold*|")
    '&lt;img&gt; \\\\*bold\\\\*\\\\|'
    """
    shown = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", shown)


def markdown_code(text: str) -> str:
    """Return `text` as inline code of Markdown, whatever backticks it holds.

    >>> markdown_code("a`b")
    '``a`b``'
    """
    shown = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"


def hydra_value(text: str) -> str:
    r"""Return `text` as a value on Hydra's command line, quoted where its grammar needs that.

    >>> hydra_value("/runs/my run (1)")
    "'/runs/my run (1)'"
    """
    if re.fullmatch(r"[\w./-]*/[\w./-]*", text, re.ASCII):
        return text
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    doubled = re.sub(r"\\+(?='|\Z)", lambda found: found[0] * 2, literal)
    return "'" + doubled.replace("'", "\\'") + "'"
