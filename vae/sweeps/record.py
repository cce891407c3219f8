"""sweep.json: how a sweep was started, in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vae.files import read_json, write_json

FILE = "sweep.json"


def read_record(sweep: Path) -> dict[str, Any]:
    """What is noted of the sweep in this folder, {} if nothing is."""
    return read_json(sweep / FILE)


def write_record(sweep: Path, record: dict[str, Any]) -> None:
    """Replace the record, whole."""
    write_json(sweep / FILE, record)
