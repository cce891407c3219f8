"""A run on Weights & Biases that never stops or slows training.

An error of W&B never reaches the caller: it is logged as a warning once, and the work goes on.
wandb is imported only when a run starts, so that this module is light and
`wandb.mode=disabled` works without it.
"""

from __future__ import annotations

import logging
import netrc
import os
import shlex
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from omegaconf import MISSING

from vae.utils.compat import restored_process, wandb_upload_failed, without_wandb_launch
from vae.utils.errors import UserError, require, without_password

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)

MODES = ("auto", "online", "offline", "disabled")
# Seconds: the answer to a first request; the start of a run (wandb adds 10); the final upload.
REACH_TIMEOUT, INIT_TIMEOUT, FINISH_TIMEOUT = 5.0, 20.0, 120.0


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


def resolve_mode(mode: str) -> Literal["online", "offline", "disabled"]:
    """Resolve `wandb.mode` on this machine, without a network call.

    Raises:
        UserError: online is asked for without an API key, or WANDB_* hold nonsense.
    """
    if mode in ("disabled", "offline"):
        return "disabled" if mode == "disabled" else "offline"
    with restored_process():
        import wandb

        try:
            known = wandb.setup().settings  # out of WANDB_* and of the file of `wandb offline`
        except Exception as error:
            text = f"W&B refuses its own settings (WANDB_* in the environment): {error_text(error)}"
            raise UserError(text) from error
    if mode == "auto" and known.mode in ("disabled", "offline", "dryrun"):
        return "disabled" if known.mode == "disabled" else "offline"
    if known.identity_token_file or known.api_key or _netrc_has(known.base_url):
        return "online"
    if mode == "online":
        raise UserError(
            "wandb.mode: got 'online', but there is no API key for "
            f"{without_password(known.base_url)}. "
            "Run `wandb login` (or set WANDB_API_KEY), or take wandb.mode=offline."
        )
    return "offline"


def without_upload_target(settings: WandbConfig, given: Collection[str]) -> WandbConfig:
    """Return settings of an untrusted run folder, except where they would upload to.

    Args:
        settings: from the folder; keys that are in `given`, from the user.
        given: keys such as `wandb.entity`.
    """
    left_out: dict[str, Any] = {}
    if settings.entity is not None and "wandb.entity" not in given:
        left_out["entity"] = None
    if settings.mode == "online" and "wandb.mode" not in given:
        left_out["mode"] = "auto"
    for key in left_out if settings.mode != "disabled" else ():
        text = "wandb.%s=%s is left out: a run's folder does not decide where it is uploaded."
        logger.warning(text + " Where you want it, give it.", key, getattr(settings, key))
    return replace(settings, **left_out)


def _netrc_has(url: str) -> bool:
    """Return whether .netrc has an API key for the server at `url`."""
    host = urlsplit(without_credentials(url)).netloc
    for path in (os.environ.get("NETRC") or "~/.netrc", "~/_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            found = netrc.netrc(Path(path).expanduser()).authenticators(host)
            return bool(found and found[2])
    return False


def without_credentials(url: str) -> str:
    """Return the URL without user and password, which neither urllib nor wandb can use."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


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


def error_text(error: Exception) -> str:
    """Format an error of wandb on one line, without API key and passwords."""
    text = without_password(" ".join(f"{type(error).__name__}: {error}".split()))
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "…") if key else text


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
        self.folder, self.settings, self.config = folder, settings, config
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

    def report(self, row: Mapping[str, float], pictures: Mapping[str, Path] | None = None) -> None:
        """Log one row: numbers, and image files (`figures/samples` → path)."""

        def log(run: wandb.Run) -> None:
            import wandb

            images = {key: wandb.Image(str(path)) for key, path in (pictures or {}).items()}
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

    def _start(self, mode: Literal["online", "offline"]) -> None:
        """Start online, or offline where that is asked for or the server cannot be used."""
        if mode == "online":
            import wandb

            known = wandb.setup().settings  # as `resolve_mode` has set them up
            # wandb itself would knock at a closed door for INIT_TIMEOUT, in every run of a sweep.
            # (Through a proxy out of wandb's own settings only wandb can knock.)
            proxied = known.http_proxy or known.https_proxy
            trouble = None if proxied else unreachable(without_credentials(known.base_url))
            if trouble is None:
                try:
                    self._init(mode)
                    logger.info("W&B run: %s", self._run.url if self._run else None)
                    return
                except Exception as error:
                    trouble = error_text(error)
                    self.run_id = None  # for this process, the id of a failed start is in use
            logger.warning(
                "W&B at %s cannot be used: %s", without_password(known.base_url), trouble
            )
        self._init("offline")
        logger.info("W&B is offline; to upload this run: %s", self._sync_command())

    def _init(self, mode: Literal["online", "offline"]) -> None:
        with restored_process(), without_wandb_launch():
            import wandb

            named = ("project", "entity", "group", "name", "tags")
            self._run = wandb.init(
                **{key: getattr(self.settings, key) for key in named},
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
