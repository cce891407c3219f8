"""What of a packing is done: noted beside its files, so that one that was cut goes on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple


class Job(NamedTuple):
    """Images [start, stop) of a split, to be written into a file from a byte on."""

    split: str
    start: int
    stop: int
    file: Path
    byte: int
    size: int  # of an image's side, pixels
    skip: bool  # go on where an image cannot be read


class Done(NamedTuple):
    """What became of a job: a line of the journal."""

    split: str
    start: int
    stop: int
    checksum: int  # CRC-32 of the bytes that were written
    skipped: list[tuple[int, str]]  # number and reason of each image that cannot be read


class Journal:
    """The jobs that are done, of this packing and of those before it that were cut.

    What an earlier one noted counts only if the file still holds those bytes: a machine
    that lost its power may have kept the note and not what it is about.
    """

    NAME = "journal.jsonl"

    def __init__(self, folder: Path, jobs: list[Job]) -> None:
        by_place = {(job.split, job.start, job.stop): job for job in jobs}
        done = {}
        for one in _lines(folder / self.NAME):
            job = by_place.get((one.split, one.start, one.stop))
            # Images that could not be read may have been mended: they are tried again.
            if job and not one.skipped and _checksum(job) == one.checksum:
                done[job] = one
        self.done = list(done.values())
        self.left = [job for job in jobs if job not in done]
        self._file = open(folder / self.NAME, "a", encoding="utf-8")  # noqa: SIM115 - closed on exit
        self._file.write("\n")  # the last line may be half there

    def note(self, done: Done) -> None:
        """Write a line; it is with the system at once, so that killing us does not lose it."""
        self._file.write(json.dumps(done) + "\n")
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _lines(file: Path) -> Iterator[Done]:
    with suppress(FileNotFoundError), open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError, TypeError):  # what is no line of ours
                yield Done(*json.loads(line))


def _checksum(job: Job) -> int:
    with open(job.file, "rb") as file:
        file.seek(job.byte)
        return zlib.crc32(file.read((job.stop - job.start) * 3 * job.size**2))
