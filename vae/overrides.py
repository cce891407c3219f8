"""Overrides, the `KEY=VALUE` of the command line: a run is named by them and resumed with them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from vae.errors import UserError
from vae.files import write_text_atomically

LONGEST_NAME = 120  # characters of a folder's name; file systems stop at 255 bytes
ACCEPTED = Path(".hydra", "accepted.yaml")  # overrides that a run has really run with
NOT_NAMED = ("wandb.", "sweep.", "resume")  # overrides that do not change what a run does


def safe_name(text: str) -> str:
    """`text` as the name of a folder on any file system, still different for different texts.

    >>> safe_name("loss.beta=1e-05,model.latent_dim=64")
    'loss.beta=1e-05,model.latent_dim=64'
    """
    safe = re.sub(r"[^\w.,=+-]", "_", text)
    if safe == text and len(safe) <= LONGEST_NAME:
        return safe
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{safe[:LONGEST_NAME]}-{digest}"


def run_name(overrides: list[str], fixed: list[str]) -> str:
    """A run's name: its overrides, sorted, less the keys that all runs share.

    Args:
        overrides: as on the command line, `["loss.beta=1e-05", "data.path=/a/b"]`;
            those of NOT_NAMED are left out, too.
        fixed: keys to leave out, `["data.path"]`.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    differing = [
        _short(o)
        for o in parsed
        if o.key_or_group not in fixed and not o.key_or_group.startswith(NOT_NAMED)
    ]
    return safe_name(",".join(sorted(differing))) or "defaults"


def _short(override: Override) -> str:
    """`KEY=VALUE`, a float with as many digits as tell two samples of a sweep apart."""
    value = override.value()
    if isinstance(value, float):
        return f"{override.key_or_group}={value:.6g}"
    return override.input_line or ""


def _resolve_run_name(*, _root_: DictConfig) -> str:
    fixed = _root_.hydra.job.config.override_dirname.exclude_keys
    return run_name(list(_root_.hydra.overrides.task), list(fixed))


# `${run_name:}`, the name of a sweep's run, for `hydra.sweep.subdir`. Registered on import: a
# launcher's process knows of this module, through the callbacks, but not of train.py.
OmegaConf.register_resolver("run_name", _resolve_run_name, replace=True)


def remember_overrides(folder: Path) -> None:
    """Keep the overrides that a run was accepted with, for resuming it.

    Hydra writes `.hydra/overrides.yaml` before anybody can refuse them, so a mistaken
    command in the same folder replaces that file, but not this one.
    """
    accepted = (folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
    write_text_atomically(folder / ACCEPTED, accepted)


def expand_resume(arguments: list[str]) -> list[str]:
    """Command-line arguments in which `resume=FOLDER` brings that run's own overrides along.

    So `python train.py resume=FOLDER trainer.epochs=20` goes on with what the run was
    started with, in its folder, but for what is given anew.

    Raises:
        UserError: there is no run in that folder, or a sweep is asked for.
    """
    given = [a.partition("=")[2] for a in arguments if a.startswith("resume=")]
    if not given or given[-1] in ("", "null"):
        return arguments
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("resume: goes on with one run; leave out -m.")
    folder = Path(given[-1].strip("'\"")).resolve()
    if not (folder / ACCEPTED).is_file():
        raise UserError(f"resume: {folder} is no run folder: it has no {ACCEPTED}.")
    overrides = [str(override) for override in OmegaConf.load(folder / ACCEPTED)]
    earlier = [o for o in overrides if not o.startswith("resume=")]
    others = [a for a in arguments if not a.startswith("resume=")]
    quoted = "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"
    return [*earlier, *others, f"resume={quoted}", f"hydra.run.dir={quoted}"]
