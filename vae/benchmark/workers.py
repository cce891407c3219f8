"""Measurements in processes of their own, which take turns.

An allocator's setting cannot be undone within a process, nor what a compiler or a thread
pool left behind. And taking turns (A B C A B C ...) spreads what else the machine does
over all of them alike.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TypeAlias

import torch

from vae.benchmark.statistics import Sample, Series
from vae.benchmark.timing import Others
from vae.errors import UserError

Figures: TypeAlias = dict[str, float]  # of one round, by name
Measure: TypeAlias = Callable[[], Figures]  # one round
Prepare: TypeAlias = Callable[[], Measure]  # picklable: it is called in the worker


class Worker:
    """A process that measures one round when it is told to, and sleeps otherwise.

    Args:
        name: for messages.
        prepare: builds what is measured; the constructor returns when it has.
        threads: CPU threads of the process; None: torch's own choice.

    Raises:
        UserError: the process died; its own traceback, if it had one, is on stderr.
    """

    def __init__(self, name: str, prepare: Prepare, threads: int | None) -> None:
        self.name = name
        # spawn: a process forked from one that has computed would have half of its threads
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, prepare, threads))
        self.process.start()
        theirs.close()  # so that its end is seen here
        self._receive()

    def round(self) -> dict[str, Sample]:
        """What one round measured."""
        self.connection.send("round")
        return self._receive()

    def close(self) -> None:
        """End the process and wait for its end."""
        self.connection.close()
        self.process.join()

    def _receive(self) -> dict[str, Sample]:
        try:
            found: dict[str, Sample] = self.connection.recv()
        except EOFError:
            self.process.join()
            raise UserError(
                f"{self.name}: measuring it ended with code {self.process.exitcode}; "
                "what it said is above (-9: killed, perhaps for want of memory)."
            ) from None
        return found


def _serve(connection: Connection, prepare: Prepare, threads: int | None) -> None:
    """The worker's life: it ends when the other end of the pipe does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one at the other end
    if threads:
        torch.set_num_threads(threads)
    measure = prepare()
    with suppress(EOFError, ConnectionError):
        connection.send({})
        while connection.recv():
            others = Others()
            figures = measure()
            cores = others.cores()
            connection.send({name: Sample(value, cores) for name, value in figures.items()})


@contextmanager
def working(prepares: dict[str, Prepare], threads: int | None) -> Iterator[list[Worker]]:
    """A worker for each of what is to be measured, ready; all are ended afterwards."""
    workers: list[Worker] = []
    try:
        for name, prepare in prepares.items():
            workers.append(Worker(name, prepare, threads))
        yield workers
    finally:
        for worker in workers:
            worker.close()


def take_turns(rounds: int, turns: Sequence[Callable[[], dict[str, Sample]]]) -> dict[str, Series]:
    """Every turn once a round, in order; what each measured, by name and round."""
    series: dict[str, list[Sample]] = {}
    for _ in range(rounds):
        for turn in turns:
            for name, sample in turn().items():
                series.setdefault(name, []).append(sample)
    return dict(series)
