"""Packing that is killed at any moment: no partial cache is accepted."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.support.tiny_source import (
    JOBS,
    Tiny,
    asked,
    caches,
    config,
    contents,
    in_a_fork,
    noted,
    partials,
    pids,
    wait_until,
    whole,
)
from vae.data import packing, partial_cache
from vae.data.cache import open_or_pack

pytestmark = pytest.mark.slow

LATE = [("train", 195), ("train", 199), ("val", 69)]  # in chunks of few images


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_of(pid: int) -> list[int]:
    """The spawned workers of a process, without multiprocessing's resource tracker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [child for child, command in commands.items() if b"--multiprocessing-fork" in command]


@pytest.mark.usefixtures("workers")
@pytest.mark.skipif(not Path("/proc/thread-self/children").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    ("number", "workers_are"),
    [(signal.SIGINT, "importing"), (signal.SIGINT, "reading"), (signal.SIGKILL, "reading")],
)
def test_a_stopped_packing_leaves_no_workers(tmp_path, calls, caplog, capfd, number, workers_are):
    source, settings = Tiny(calls, gate=tmp_path / "gate"), config(tmp_path, num_workers=2)
    packer = in_a_fork(lambda: (os.setsid(), open_or_pack(source, settings)))
    wait_until(lambda: len(workers_of(packer)) == 2)
    workers = workers_of(packer)
    if workers_are == "importing":
        wait_until(lambda: all("torch" in Path(f"/proc/{pid}/maps").read_text() for pid in workers))
    else:  # the first job is the parent's own, the next ones its workers'
        wait_until(lambda: len(pids(calls)) == 3)
    if number == signal.SIGINT:  # a terminal's, for all processes
        os.killpg(packer, number)
    else:
        os.kill(packer, number)
    source.gate.touch()
    assert os.waitpid(packer, 0)[1] != 0

    wait_until(lambda: not any(map(is_alive, workers)))
    assert "Traceback" not in capfd.readouterr().err
    assert caches(tmp_path) == []
    done = noted(partials(tmp_path)[0])
    assert JOBS[0] in done
    with caplog.at_level(logging.INFO):
        packed = open_or_pack(Tiny(tmp_path / "again"), config(tmp_path))
    assert "resuming at image" in caplog.text
    assert sorted(asked(tmp_path / "again")) == sorted(set(JOBS) - set(done))
    assert contents(packed.folder) == whole(tmp_path)


def on_each_line(do: Callable[[str], object]) -> None:
    """Call a function before each line of packing.py and partial_cache.py."""
    files = (packing.__file__, partial_cache.__file__)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            do(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return trace

    sys.settrace(trace)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("mended", [False, True])
def test_killed_at_any_line_packing_resumes(tmp_path, calls, mended):
    """`mended`: the images that could not be read are there when it goes on."""
    source, settings = Tiny(calls, bad=LATE), config(tmp_path, skip=True)
    again, then = (Tiny(calls), config(tmp_path)) if mended else (source, settings)
    lines: list[str] = []
    on_each_line(lines.append)
    skipping = contents(open_or_pack(source, settings).folder)
    sys.settrace(None)
    shutil.rmtree(tmp_path / "cache")
    expected = whole(tmp_path) if mended else skipping
    last = len(lines) - 1
    (renamed,) = (n for n, line in enumerate(lines) if ".rename(folder)" in line_of(line))
    moments = {lines.index(line) for line in lines}  # the first time at each line, and the last
    moments |= {last - lines[::-1].index(line) for line in lines if "packing.py" in line}

    def pack_until(moment: int) -> None:
        """Pack, and die as by kill -9 at a given line."""
        left = itertools.count(moment, -1)
        on_each_line(lambda _: next(left) or os._exit(9))
        open_or_pack(source, settings)

    wrong = []
    for moment in sorted(moments):
        _, status = os.waitpid(in_a_fork(partial(pack_until, moment)), 0)
        assert os.waitstatus_to_exitcode(status) == 9
        assert bool(caches(tmp_path)) == (moment > renamed)
        if contents(open_or_pack(again, then).folder) != expected:
            wrong.append(f"{Path(lines[moment]).name}: {line_of(lines[moment])}")
        shutil.rmtree(tmp_path / "cache")
    assert wrong == []


def line_of(place: str) -> str:
    file, _, number = place.rpartition(":")
    return Path(file).read_text().splitlines()[int(number) - 1].strip()
