"""Settings of W&B: the configuration's, and W&B's own of WANDB_* and of its settings files.

Where the configuration is silent, W&B's own count. wandb is imported only when a run starts.
"""

from __future__ import annotations

import logging
import netrc
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from omegaconf import MISSING

from vae.runs.resume import LEFT_OUT, reaches_network
from vae.utils.compat import restored_process
from vae.utils.errors import UserError, require, without_password
from vae.utils.text import printable, safe_name

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

MODES = ("auto", "online", "offline", "disabled")
DEFAULT_PROJECT = "minifaceapp"
RESERVED = "/\\#?%:"  # in the names of projects and entities
MAX_NAME = 128  # characters that W&B takes of a project, a group, a run's name
# W&B's settings that name one run, its sweep or its launch; without one, they are None.
ONE_RUN = (
    *("run_id", "run_name", "resume", "resume_from", "fork_from"),
    *("sweep_id", "sweep_param_path", "launch_config_path", "x_runqueue_item_id"),
)


@dataclass
class WandbConfig:
    """Settings of W&B: mode, project, names. `conf/wandb/` holds the values."""

    mode: str = MISSING  # auto (online where there is an API key), online, offline or disabled
    project: str | None = MISSING  # null: WANDB_PROJECT, else minifaceapp
    entity: str | None = MISSING  # a user or a team; null: WANDB_ENTITY, else the account's default
    group: str | None = MISSING  # null: WANDB_RUN_GROUP, else the sweep's name in a sweep
    name: str | None = MISSING  # null: WANDB_NAME of a single run, else the run's overrides
    tags: list[str] = MISSING
    log_model: bool = MISSING  # upload the model as an artifact at the end; record its data
    alert: bool = False  # send W&B's alerts: a run failed, a sweep ended; older runs have none

    def __post_init__(self) -> None:
        require(self.mode in MODES, "wandb.mode", self.mode, f"one of {', '.join(MODES)}")
        # W&B refuses these itself, but only once the run has begun.
        for key in ("project", "entity", "group", "name"):
            text, reserved = getattr(self, key), RESERVED if key in ("project", "entity") else ""
            fits = text is None or (_printable(text, MAX_NAME) and not set(text) & set(reserved))
            but = f", none of them {' '.join(reserved)}" if reserved else ""
            require(fits, f"wandb.{key}", text, f"1 to {MAX_NAME} printable characters{but}")
        fit = all(isinstance(tag, str) and _printable(tag, 64) for tag in self.tags)
        require(fit, "wandb.tags", self.tags, "tags of 1 to 64 printable characters each")


def _printable(text: str, limit: int) -> bool:
    return 0 < len(text) <= limit and text.isprintable() and not text.isspace()


def fitting_name(text: str) -> str:
    """Return a generated name as W&B takes it: on one line, cut, unique per text.

    >>> len(fitting_name("a" * 200))
    128
    """
    shown = printable(text)
    return shown if len(shown) <= MAX_NAME else safe_name(text, MAX_NAME - 9)


def run_group(configured: str | None, default: str) -> str:
    """Return the W&B group of a run: its wandb.group, else WANDB_RUN_GROUP, else the default."""
    return configured or os.environ.get("WANDB_RUN_GROUP") or default


def wandb_settings() -> wandb.Settings:
    """Return W&B's own settings in this process: of WANDB_* and of W&B's settings files.

    An empty variable counts as unset.

    Raises:
        UserError: W&B refuses them, or an untrusted folder has some, with a server of its own.
    """
    in_a_run = any(Path(name).exists() for name in (".hydra", "multirun.yaml"))
    for file in (Path.cwd() / name / "settings" for name in ("wandb", ".wandb")):
        if in_a_run and file.exists():
            raise UserError(
                f"{file}: W&B would read this file, which could send your API key to any server. "
                "Remove it, or start the command from another folder."
            )
    for name in [name for name, value in os.environ.items() if not value]:
        if name.startswith("WANDB_"):
            del os.environ[name]
    with restored_process():
        import wandb

        try:
            known = wandb.setup().settings
        except Exception as error:
            text = f"W&B refuses its own settings (WANDB_* in the environment): {error_text(error)}"
            raise UserError(text) from error
    token = known.identity_token_file
    if token and not Path(token).is_file():  # of which W&B's own process would die, also offline
        raise UserError(f"WANDB_IDENTITY_TOKEN_FILE: {token} is no file. Write it, or unset it.")
    return known


def resolve_mode(mode: str) -> Literal["online", "offline", "disabled"]:
    """Resolve `wandb.mode` on this machine, without a network call.

    Raises:
        UserError: online is asked for without an API key, or WANDB_* hold nonsense.
    """
    if mode == "disabled":
        return "disabled"
    known = wandb_settings()
    if mode == "offline":
        return "offline"
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


def error_text(error: Exception) -> str:
    """Format an error of wandb on one line, without API key and passwords."""
    text = without_password(" ".join(f"{type(error).__name__}: {error}".split()))
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "…") if key else text


def public_text(text: str) -> str:
    """Return a message without the API key, passwords, and the folders of this machine.

    Of each absolute path, the name of the file is left: `…/last.pt`.
    """
    key = os.environ.get("WANDB_API_KEY")
    text = without_password(text.replace(key, "…") if key else text)
    for folder in sorted((os.getcwd(), os.path.expanduser("~")), key=len, reverse=True):
        text = text.replace(os.path.join(folder, ""), "…/") if len(folder) > 1 else text
    return re.sub(r"(?<![\w.…/:])(?:/|[A-Za-z]:\\)(?:[^\s/\\'\",;]+[/\\])+", "…/", text)


@contextmanager
def without_one_run(known: wandb.Settings) -> Iterator[None]:
    """Take the settings that name one run out of W&B's settings of this process, for a while."""
    kept = {key: getattr(known, key) for key in ONE_RUN}
    try:
        for key in ONE_RUN:
            setattr(known, key, None)
        yield
    finally:
        for key, value in kept.items():
            setattr(known, key, value)


def without_upload_target(settings: WandbConfig, given: Collection[str]) -> WandbConfig:
    """Return settings of an untrusted run folder, except where they would upload to.

    Args:
        settings: from the folder; keys that are in `given`, from the user.
        given: keys such as `wandb.entity`.
    """
    left_out: dict[str, Any] = {}
    for key, default in (("entity", None), ("mode", "auto")):
        override = f"wandb.{key}={getattr(settings, key) or 'null'}"
        if reaches_network(override) and f"wandb.{key}" not in given:
            left_out[key] = default
    for key in left_out if settings.mode != "disabled" else ():
        log.warning("wandb.%s=%s %s", key, getattr(settings, key), LEFT_OUT)
    return replace(settings, **left_out)
