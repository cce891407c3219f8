"""A run on Weights & Biases that never stops or slows training.

An error of W&B never reaches the caller: it is logged as a warning once, and the work goes on.
wandb is imported only when a run starts, so that this module is light and
`wandb.mode=disabled` works without it.
"""

from __future__ import annotations

import logging
import os
import shlex
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vae.runs.wandb_settings import (
    DEFAULT_PROJECT,
    WandbConfig,
    error_text,
    public_text,
    resolve_mode,
    wandb_settings,
    without_credentials,
    without_one_run,
)
from vae.utils.compat import restored_process, wandb_upload_failed, without_wandb_launch
from vae.utils.errors import without_password
from vae.utils.text import printable, truncate

if TYPE_CHECKING:
    import wandb
    from PIL.Image import Image

logger = logging.getLogger(__name__)

# Seconds: the answer to a first request; the start of a run (wandb adds 10); the final upload.
REACH_TIMEOUT, INIT_TIMEOUT, FINISH_TIMEOUT = 5.0, 20.0, 120.0
MAX_TITLE = 63  # characters of an alert's title that W&B takes
OVERRULED = {  # documented variables of W&B that this project overrules
    "WANDB_DIR": "W&B's files of a run are in the run's folder.",
    "WANDB_SAVE_CODE": "of the code, only uncommitted changes (code.patch) are uploaded.",
}


def unreachable(url: str) -> str | None:
    """Return why no server answers at `url`; None if one does, even with an error."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=REACH_TIMEOUT):
            return None
    except urllib.error.HTTPError:
        return None
    except OSError as error:  # URLError and TimeoutError among them
        reason = getattr(error, "reason", error)
        # wandb may trust a certificate that Python does not.
        return None if isinstance(reason, ssl.SSLError) else str(reason)


class WandbRun:
    """One run on W&B, as a context manager; a process may use several in sequence.

    W&B writes to `folder`/wandb. `config` is the resolved configuration, nested. `run_id`
    resumes that W&B run. `single`: False in a sweep: WANDB_RUN_ID and the like do not apply;
    to a resumed run they never do. On leaving, the W&B run ends, as failed if an exception
    passes through. Entering raises a UserError, and creates nothing, where `resolve_mode` would.
    """

    def __init__(
        self,
        folder: Path,
        settings: WandbConfig,
        config: Mapping[str, Any],
        *,
        run_id: str | None = None,
        job_type: str | None = None,
        single: bool = False,
    ) -> None:
        self.folder, self.settings, self.config = folder, settings, config
        self.job_type = job_type  # None: WANDB_JOB_TYPE, else train
        self.resumes, self.single = run_id is not None, single and run_id is None
        # W&B's id, to be kept. None where there is no W&B run; but one that was given
        # stays while W&B is disabled, so that a later resume finds that run again.
        self.run_id = run_id
        self._run: wandb.Run | None = None
        self._warned: set[str] = set()

    def __enter__(self) -> WandbRun:
        mode = resolve_mode(self.settings.mode)
        if mode != "disabled":
            self.folder.mkdir(parents=True, exist_ok=True)
            self._attempt("could not be started", lambda: self._start(mode))
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        ended_well = error is None or (isinstance(error, SystemExit) and not error.code)
        self.send("logging was incomplete", lambda run: _finish(run, 0 if ended_well else 1))
        self._run = None

    def send(self, what: str, act: Callable[[wandb.Run], object]) -> None:
        """Call `act` with the W&B run, if there is one; an error is one warning of its kind."""
        run = self._run
        if run is not None:
            self._attempt(what, lambda: act(run))

    def report(
        self,
        row: Mapping[str, float],
        pictures: Mapping[str, Path | Sequence[tuple[str, Image]]] | None = None,
    ) -> None:
        """Log one row: numbers, image files (`figures/samples` → path), captioned images."""

        def log(run: wandb.Run) -> None:
            import wandb

            images = {
                key: wandb.Image(str(shown))
                if isinstance(shown, Path)
                else [wandb.Image(image, caption=caption) for caption, image in shown]
                for key, shown in (pictures or {}).items()
            }
            # Not with W&B's own step=, which drops what comes out of order: the x axis
            # is the `step` in the row.
            run.log({**row, **images})

        self.send(f"logging of a {'picture' if pictures else 'row'} failed", log)

    def report_table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table of one or more rows with the same columns."""

        def log(run: wandb.Run) -> None:
            import wandb

            cells = [list(row.values()) for row in rows]
            columns: list[str | int] = list(rows[0])
            run.log({key: wandb.Table(columns=columns, data=cells, allow_mixed_types=True)})

        self.send("logging of a table failed", log)

    def save_code(self, name: str, content: bytes) -> None:
        """Upload a file of the run, unless WANDB_DISABLE_CODE says no."""

        def save(run: wandb.Run) -> None:
            if not wandb_settings().disable_code:
                # W&B would link to a file elsewhere, and a moved run folder would not be whole.
                copy = Path(run.dir, name)
                copy.write_bytes(content)
                run.save(str(copy), base_path=run.dir, policy="now", glob=False)

        self.send("upload of the code's changes failed", save)

    def alert(self, title: str, text: str, level: Literal["INFO", "WARN", "ERROR"]) -> None:
        """Send an alert of W&B's, where `wandb.alert` asks for it, without local paths."""

        def send(run: wandb.Run) -> None:
            shown = truncate(public_text(text), 1000)
            run.alert(title=truncate(printable(title), MAX_TITLE), text=shown, level=level)

        if self.settings.alert:
            self.send("alert failed", send)

    def _start(self, mode: Literal["online", "offline"]) -> None:
        """Start online, or offline where that is asked for or the server cannot be used."""
        known = wandb_settings()
        for name in OVERRULED.keys() & os.environ.keys():
            logger.warning("%s is not used: %s", name, OVERRULED[name])
        own_id = True
        if mode == "online":
            # wandb itself would knock at a closed door for INIT_TIMEOUT, in every run of a sweep.
            # (Through a proxy out of wandb's own settings only wandb can knock.)
            proxied = known.http_proxy or known.https_proxy
            trouble = None if proxied else unreachable(without_credentials(known.base_url))
            if trouble is None:
                try:
                    self._init(mode, known)
                    logger.info("W&B run: %s", self._run.url if self._run else None)
                    return
                except Exception as error:
                    trouble = error_text(error)
                    own_id = False  # for this process, the id of a failed start is in use
            logger.warning(
                "W&B at %s cannot be used: %s", without_password(known.base_url), trouble
            )
        self._init("offline", known, own_id)
        logger.info("W&B is offline; to upload this run: %s", self._sync_command())

    def _init(
        self, mode: Literal["online", "offline"], known: wandb.Settings, own_id: bool = True
    ) -> None:
        ours: dict[str, Any] = {
            "silent": True,  # the lines that matter are logged here; wandb's warnings remain
            "console": "off",  # train.log has it, and tqdm stays as it is
            "init_timeout": INIT_TIMEOUT,
            "finish_timeout": FINISH_TIMEOUT,
        }
        ours = {key: value for key, value in ours.items() if key not in known.model_fields_set}
        named = nullcontext() if self.single and own_id else without_one_run(known)
        with restored_process(), without_wandb_launch(), named:
            import wandb

            self._run = wandb.init(
                project=self.settings.project or known.project or DEFAULT_PROJECT,
                entity=self.settings.entity,
                group=self.settings.group,
                name=self.settings.name,
                tags=self.settings.tags or None,
                job_type=self.job_type or known.run_job_type or "train",
                config=dict(self.config),
                mode=mode,
                dir=self.folder,
                id=self.run_id if own_id else None,
                resume="allow" if self.resumes else None,
                reinit="create_new",  # a run of its own, whatever else this process has open
                settings=wandb.Settings(
                    base_url=without_credentials(known.base_url),
                    disable_code=True,
                    disable_git=True,
                    finish_timeout_raises=True,
                    **ours,
                ),
            )
        given = known.run_id if self.single else None
        self.run_id = self.run_id or given or self._run.id

    def _sync_command(self) -> str:
        if self._run is None:
            return "-"
        words = ["wandb", "sync", str(Path(self._run.dir).parent)]
        if not self._run.offline:
            words.insert(2, "--include-online")  # or it would be left out
        if self._run.id != self.run_id:
            words[2:2] = ["--id", str(self.run_id)]
        return shlex.join(words)

    def _attempt(self, what: str, act: Callable[[], object]) -> None:
        """Call `act`; log any error of W&B, with one warning of each kind."""
        try:
            act()
        except Exception as error:
            if what not in self._warned:
                self._warned.add(what)
                text = "W&B %s (%s). Training continues; to upload the run later: %s"
                logger.warning(text, what, error_text(error), self._sync_command())


def _finish(run: wandb.Run, exit_code: int) -> None:
    run.finish(exit_code=exit_code)
    if wandb_upload_failed(Path(run.dir).parent):
        raise PermissionError("the server refused the rows")
