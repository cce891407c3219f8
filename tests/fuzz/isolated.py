"""Examples, and a process for their calls: a hang, a crash or a lack of memory is a finding."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from hypothesis import HealthCheck, Phase, settings

from vae.utils.errors import UserError

DEADLINE = 60  # seconds for a call, which take a fraction of one
MEMORY = 3 << 30  # bytes that a call may take beyond what the process has: more is want of memory
BY_HAND = os.environ.get("SEARCHED_EXAMPLES")

# Hypothesis also draws constants that it finds in whatever local modules are loaded: which
# examples there are would depend on what else is tested, and on each edit of any file.
with suppress(ImportError, AttributeError):  # older ones do not
    from hypothesis.internal.conjecture import providers

    none = providers._local_constants
    providers._get_local_constants = lambda: none


def examples(count: int) -> settings:
    """Draw the same `count` examples each time; with SEARCHED_EXAMPLES, that many, different ones.

    What is found is shown as it was drawn. Making it smaller takes hundreds of further tries,
    and where each of them hangs, that is until the whole of CI is ended.
    """
    return settings(
        max_examples=int(BY_HAND or count),
        derandomize=not BY_HAND,
        database=None,
        deadline=None,  # the process beside this one has one
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if BY_HAND else [])],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


class Isolated:
    """Call functions in one process, in `folder`; a process that dies is replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), _prepare, (self.folder,))

    def __call__(self, function: Callable[..., object], *arguments: Any) -> str | None:
        """Return the message of the UserError that `function` raises, else None.

        Raises:
            Exception: any other error of the function's.
            BrokenProcessPool: the process died, or hung: stderr says where.
        """
        try:
            self.pool.submit(_call, function, *arguments).result()
        except UserError as error:
            return str(error)
        except BrokenProcessPool:
            self.start()
            raise
        return None


def _prepare(folder: Path) -> None:
    """In the process: as conftest.py isolates it, and with a limit to its memory."""
    # or it would outlive tests that are killed
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    home = {"HOME": str(folder / "home"), "NETRC": str(folder / "home" / ".netrc")}
    os.environ.update(home, WANDB_BASE_URL="http://127.0.0.1:1", TQDM_DISABLE="1")
    os.chdir(folder)
    logging.disable(logging.CRITICAL)
    import torch

    import train  # noqa: F401 - all that a run needs, before memory is limited

    torch.set_num_threads(1)
    if sys.platform == "linux":  # others do not heed it
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _call(function: Callable[..., object], *arguments: Any) -> None:
    faulthandler.dump_traceback_later(DEADLINE, exit=True)
    try:
        function(*arguments)
    finally:
        faulthandler.cancel_dump_traceback_later()
