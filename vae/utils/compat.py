"""Workarounds for other libraries, each with what it gains.

Seconds are of the start-up of a run: the median of 13 pairs of processes on two CPU cores, with
torch 2.14.1 and wandb 0.31. Where a workaround is no longer needed, its test in
`tests/utils/test_compat.py` fails.
"""

from __future__ import annotations

import inspect
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Kind = TypeVar("Kind", bound="type[torch.optim.Optimizer]")

# Bytes of a folder in which multiprocessing can create a socket: the system takes 107 (macOS 103)
# in all, and "/pymp-xxxxxxxx/listener-xxxxxxxx" follows.
LONGEST_SOCKET_FOLDER = 107 - 32
UPLOAD_GIVEN_UP = "filestream: fatal error"


def without_compiler(kind: Kind) -> Kind:
    """Return an optimizer class without torch's hooks for compiling it: 1.7 s.

    torch wraps an optimizer's methods so that the first call of any imports the compiler. This
    project compiles the model, never the optimizer.
    """
    import torch

    methods = ("add_param_group", "state_dict", "load_state_dict", "zero_grad")
    unwrapped = {name: inspect.unwrap(getattr(kind, name)) for name in methods}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {**unwrapped, "step": step})  # type: ignore[return-value]


@contextmanager
def without_wandb_launch() -> Iterator[None]:
    """Keep wandb.init from importing W&B Launch: 0.4 s.

    It looks there for inputs that this process has staged for a Launch job, which it can
    only have done through that very package: where it is not imported, there are none.
    wandb catches the failing import and goes on.
    """
    package = "wandb.sdk.launch"
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # Python's mark for "not to be found"
    try:
        yield
    finally:
        del sys.modules[package]


@contextmanager
def short_socket_paths() -> Iterator[None]:
    """Let multiprocessing start its fork server where TMPDIR is long, as on some clusters.

    The path of its socket would be too long for the system. Python 3.14 sees to that itself.
    """
    before = tempfile.gettempdir()
    if len(os.fsencode(before)) > LONGEST_SOCKET_FOLDER:
        tempfile.tempdir = "/tmp"
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def restored_process() -> Iterator[None]:
    """Undo wandb's changes to the process at its start. It gains no time, but independent runs.

    It replaces sys.exit and sys.excepthook, and names its service to child
    processes in WANDB_SERVICE, by which other runs would come to depend on it.
    """
    hook, leave = sys.excepthook, sys.exit
    variables = set(os.environ)
    try:
        yield
    finally:
        sys.excepthook, sys.exit = hook, leave
        for key in set(os.environ) - variables:
            if key.startswith("WANDB_"):
                del os.environ[key]


def wandb_upload_failed(folder: Path) -> bool:
    """Return whether W&B gave up uploading the rows of a run. It gains no time, but a warning.

    `finish` returns as if all were well, and only W&B's own log tells.

    Args:
        folder: W&B's of the run, `wandb/run-...`.
    """
    log = folder / "logs" / "debug-internal.log"
    return log.exists() and UPLOAD_GIVEN_UP in log.read_text(encoding="utf-8", errors="replace")


def log_input_artifact(run: Any, artifact: object) -> None:
    """Record a new artifact as an input of a W&B run. It gains no time, but works offline.

    W&B's `use_artifact` refuses an offline run, and in an online one it waits for the upload.
    """
    run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def keep_gradio_from_writing_stubs() -> None:
    """Keep Gradio from writing a .pyi file beside each file with a subclass of a component.

    It gains no time, but a clean repository; and mypy would read the stub, which is incomplete.
    """
    from gradio import component_meta

    component_meta.create_or_modify_pyi = lambda *_: None


def keep_gradio_from_opening_files() -> None:
    """Keep Gradio from opening files and downloading URLs that a request names.

    It gains no time, but safety. Gradio does so for any dict with a path among the inputs of an
    event, whatever component they are for. This project's page sends images within its answers
    (`data:` URLs) and reads an upload itself: no other file is to be moved.
    """
    from gradio import processing_utils
    from gradio.data_classes import GradioModel, GradioRootModel

    async def unmoved(data: Any, *_: Any, **__: Any) -> Any:
        return data.model_dump() if isinstance(data, (GradioModel, GradioRootModel)) else data

    processing_utils.async_move_files_to_cache = unmoved


def give_each_upload_a_folder() -> None:
    """Let Gradio keep each upload in a folder of its own, with a name that nobody can guess.

    It gains no time, but privacy. Gradio names the folder by the file's content: of two visitors
    who upload the same file, the first to read and remove it would take it from the second.
    """
    from gradio import route_utils

    class Upload(route_utils.GradioUploadFile):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.sha.update(secrets.token_bytes(16))  # its digest is the folder's name

    route_utils.GradioUploadFile = Upload
