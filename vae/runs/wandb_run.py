"""A run on Weights & Biases that never stops or slows training.

An error of W&B never reaches the caller: it is logged as a warning
once, and the work goes on. wandb is imported only when a run starts, so that this module
is light and `wandb.mode=disabled` works without it.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import MISSING

from vae.runs.wandb_mode import (
    MODES,
    error_text,
    resolve_mode,
    unreachable,
    without_credentials,
)
from vae.utils.compat import restored_process, wandb_upload_failed, without_wandb_launch
from vae.utils.errors import require, without_password

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)

# Seconds. The start of a run (wandb adds 10 of its own); the final upload.
INIT_TIMEOUT = 20.0
FINISH_TIMEOUT = 120.0


@dataclass
class WandbConfig:
    """Settings of W&B: mode, project, names. `conf/wandb/` holds the values."""

    mode: str = MISSING  # auto (online where there is an API key), online, offline or disabled
    project: str = MISSING
    entity: str | None = MISSING  # a user or a team; null: the account's default
    group: str | None = MISSING  # null: the sweep's name in a sweep
    name: str | None = MISSING  # null: the run's overrides
    tags: list[str] = MISSING
    log_model: bool = MISSING  # upload checkpoints/best.pt as an artifact at the end

    def __post_init__(self) -> None:
        require(self.mode in MODES, "wandb.mode", self.mode, f"one of {', '.join(MODES)}")
        # W&B refuses these itself, but only once the run has begun.
        usable = 0 < len(self.project) <= 128 and not set(self.project) & set("/\\#?%:")
        takes = "a name of at most 128 characters, none of them / \\ # ? % :"
        require(usable, "wandb.project", self.project, takes)
        fit = all(isinstance(tag, str) and 0 < len(tag) <= 64 for tag in self.tags)
        require(fit, "wandb.tags", self.tags, "tags of 1 to 64 characters each")


class WandbRun:
    """One run on W&B, as a context manager; a process may use several in sequence.

    W&B writes to `folder`/wandb. `config` is the resolved configuration, nested. `run_id`
    resumes that W&B run. On leaving, the W&B run ends, as failed if an exception passes
    through. Entering raises a UserError, and creates nothing, where `resolve_mode` would.
    """

    def __init__(
        self,
        folder: Path,
        settings: WandbConfig,
        config: Mapping[str, Any],
        *,
        run_id: str | None = None,
        job_type: str = "train",
    ) -> None:
        self.folder, self.settings, self.config = Path(folder), settings, config
        self.job_type = job_type
        # W&B's id, to be kept. None where there is no W&B run; but one that was given
        # stays while W&B is disabled, so that a later resume finds that run again.
        self.run_id = run_id
        self._run: wandb.Run | None = None
        self._warned: set[str] = set()

    def __enter__(self) -> WandbRun:
        mode = resolve_mode(self.settings.mode)
        if mode != "disabled":
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._warn_on_error("could not be started"):
                if mode == "offline" or not self._start_online():
                    self._start("offline")
                    logger.info("W&B is offline; to upload this run: %s", self._sync_command())
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._run is not None:
            ended_well = error is None or (isinstance(error, SystemExit) and not error.code)
            with self._warn_on_error("logging was incomplete"):
                self._run.finish(exit_code=0 if ended_well else 1)
                if wandb_upload_failed(Path(self._run.dir).parent):
                    raise PermissionError("the server refused the rows")
        self._run = None

    def report(self, row: Mapping[str, float], pictures: Mapping[str, Path] | None = None) -> None:
        """Log one row: numbers, and image files (`figures/samples` → path)."""
        if self._run is not None:
            with self._warn_on_error(
                "logging of a picture failed" if pictures else "logging of a row failed"
            ):
                import wandb

                images = {key: wandb.Image(str(path)) for key, path in (pictures or {}).items()}
                # Not with W&B's own step=, which drops what comes out of order: the x axis
                # is the `step` in the row.
                self._run.log({**row, **images})

    def report_table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table of one or more rows with the same columns."""
        if self._run is not None:
            with self._warn_on_error("logging of a table failed"):
                import wandb

                cells = [list(row.values()) for row in rows]
                table = wandb.Table(columns=list(rows[0]), data=cells, allow_mixed_types=True)
                self._run.log({key: table})

    def _start_online(self) -> bool:
        """Start online and return True; warn and return False if the server cannot be used."""
        import wandb

        known = wandb.setup().settings
        # wandb itself would knock at a closed door for INIT_TIMEOUT, in every run of a sweep.
        # (Through a proxy out of wandb's own settings only wandb can knock.)
        proxied = known.http_proxy or known.https_proxy
        trouble = None if proxied else unreachable(without_credentials(known.base_url))
        if trouble is None:
            try:
                self._start("online")
                logger.info("W&B run: %s", self._run.url if self._run else None)
                return True
            except Exception as error:
                trouble = error_text(error)
                self.run_id = None  # for this process, the id of a failed start is in use
        logger.warning("W&B at %s cannot be used: %s", without_password(known.base_url), trouble)
        return False

    def _start(self, mode: Literal["online", "offline"]) -> None:
        with restored_process(), without_wandb_launch():
            import wandb

            self._run = wandb.init(
                project=self.settings.project,
                entity=self.settings.entity,
                group=self.settings.group,
                name=self.settings.name,
                tags=list(self.settings.tags),
                job_type=self.job_type,
                config=dict(self.config),
                mode=mode,
                dir=self.folder,
                id=self.run_id,
                resume="allow" if self.run_id else None,
                reinit="create_new",  # a run of its own, whatever else this process has open
                settings=wandb.Settings(
                    base_url=without_credentials(wandb.setup().settings.base_url),
                    silent=True,  # the lines that matter are logged here; wandb's warnings remain
                    console="off",  # train.log has it, and tqdm stays as it is
                    disable_code=True,
                    disable_git=True,
                    init_timeout=INIT_TIMEOUT,
                    finish_timeout=FINISH_TIMEOUT,
                    finish_timeout_raises=True,
                ),
            )
        self.run_id = self._run.id

    def _sync_command(self) -> str:
        if self._run is None:
            return "-"
        online = "" if self._run.offline else "--include-online "  # or it would be left out
        return f"wandb sync {online}{shlex.quote(str(Path(self._run.dir).parent))}"

    @contextmanager
    def _warn_on_error(self, what: str) -> Iterator[None]:
        """Catch any error of W&B, with one warning of each kind."""
        try:
            yield
        except Exception as error:
            if what not in self._warned:
                self._warned.add(what)
                text = "W&B %s (%s). Training continues; to upload the run later: %s"
                logger.warning(text, what, error_text(error), self._sync_command())
