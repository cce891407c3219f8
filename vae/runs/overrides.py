"""Overrides (`KEY=VALUE` on the command line): run names, and `resume=`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vae.runs.artifact_download import copy_to_resume, is_address
from vae.runs.resume import ACCEPTED, key_of, names_of, resume_arguments
from vae.runs.run_dir import require_own_place
from vae.utils.errors import UserError, require
from vae.utils.files import read_text, write_text_atomically
from vae.utils.text import safe_name

UNNAMED_KEYS = ("wandb.", "sweep.", "resume")  # overrides that do not affect training


def run_name(overrides: list[str], fixed: list[str]) -> str:
    """Return a run's name: its overrides, sorted, without the keys that all runs share.

    Args:
        overrides: as on the command line, `["loss.beta=1e-05", "data.path=/a/b"]`;
            those of UNNAMED_KEYS are left out, too.
        fixed: keys or whole overrides to leave out, `["data.path", "seed=0"]`.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    differing = [
        _short(o)
        for o in parsed
        if not {o.key_or_group, _short(o)} & set(fixed)
        and not o.key_or_group.startswith(UNNAMED_KEYS)
    ]
    return safe_name(",".join(sorted(differing)) or "defaults")


def _short(override: Override) -> str:
    """Format an override as `KEY=VALUE`, floats with six digits.

    `loss/schedule=warmup` is `loss.schedule=warmup`: a folder's name has no slash in it.
    """
    value = override.value()
    if isinstance(value, float):
        return f"{override.key_or_group}={value:.6g}"
    key, equals, text = (override.input_line or "").partition("=")
    return key.replace("/", ".") + equals + text


def task_overrides(hydra: Any) -> list[str]:
    """Return the overrides that Hydra was given, their interpolations unresolved.

    Args:
        hydra: Hydra's own part of the configuration.
    """
    given: Any = OmegaConf.to_container(hydra.overrides.task)
    return list(given)


def _resolve_run_name(*, _root_: DictConfig) -> str:
    fixed = _root_.hydra.job.config.override_dirname.exclude_keys
    return run_name(task_overrides(_root_.hydra), list(fixed))


# `${run_name:}`, the name of a sweep's run, for `hydra.sweep.subdir`. Registered on import: a
# launcher's process knows of this module, through the callbacks, but not of train.py.
OmegaConf.register_resolver("run_name", _resolve_run_name, replace=True)


def save_accepted_overrides(folder: Path) -> None:
    """Save the overrides of an accepted configuration, for resuming.

    Hydra writes `.hydra/overrides.yaml` before anybody can refuse them, so a mistaken
    command in the same folder replaces that file, but not this one.
    """
    accepted = read_text(folder / ".hydra" / "overrides.yaml")
    write_text_atomically(folder / ACCEPTED, accepted)


class ResumeRequest(BaseException):
    """The composed configuration resumes a run. (Hydra's callbacks swallow an Exception.)"""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(arguments)
        self.arguments = arguments  # of the command line that has that run's overrides


def expand_resume(arguments: list[str]) -> list[str]:
    """Expand `resume=FOLDER` in command-line arguments to that run's own overrides.

    So `python train.py resume=FOLDER trainer.epochs=20` resumes with what the run was
    started with, in its folder, but for what is given anew. (Those keys may be known in that
    run's configuration alone: so a folder is expanded before anything is composed.)

    `resume=wandb:ENTITY/PROJECT/NAME:ALIAS` resumes a copy of that run, in `hydra.run.dir` if
    that is given.

    Raises:
        UserError: there is no run in that folder, or it has no harmless overrides; or it cannot
            be downloaded.
    """
    given = [word for word in arguments if key_of(word) == "resume"]
    folder = _resume_value(given[-1]) if given else None
    if folder in (None, "", "auto") or "${" in str(folder):
        return arguments
    if is_address(folder):
        places = [_resume_value(word) for word in arguments if key_of(word) == "hydra.run.dir"]
        plain = "${" not in str(places)
        require(plain, "hydra.run.dir", places[-1:], "a plain folder beside resume=wandb:...")
        return _resume_in_own_place(arguments, copy_to_resume(str(folder), *places[-1:]))
    return _resume_in_own_place(arguments, Path(str(folder)))


def quote_constraint(arguments: list[str]) -> list[str]:
    """Return command-line arguments with `sweep.constraint=val/rate <= 200` quoted for Hydra.

    The shell has removed the quotes of `sweep.constraint="val/rate <= 200"`, and Hydra's grammar
    takes no `<` outside of quotes.
    """

    def quoted(word: str) -> str:
        key, _, text = word.partition("=")
        plain = key == "sweep.constraint" and text.strip()[:1] not in ("[", "'", '"', "$")
        return f"{key}='{text}'" if plain and set(text) & set("<>") and "'" not in text else word

    return [quoted(word) for word in arguments]


def _resume_value(word: str) -> str | None:
    """Return the value of `resume=VALUE`: as Hydra reads it, or the folder of that very name.

    A run of a sweep may be called `loss.beta=0.1,seed=1`, which Hydra would take for two values.
    """
    text = word.partition("=")[2]
    try:
        value = OverridesParser.create().parse_override(word).value()
    except (HydraException, ValueError):
        return text
    return value if value is None or isinstance(value, str) else text


def request_resume(config: DictConfig, arguments: list[str]) -> None:
    """Raise a ResumeRequest if a composed configuration resumes a run without its overrides.

    `resume: auto` resumes the run in `hydra.run.dir`, where there is one. It and folders that
    YAML files or interpolations name are known only here.

    Args:
        config: composed, with Hydra's own part.
        arguments: of the command line that it was composed from.

    Raises:
        UserError: as `expand_resume`.
    """
    resume = OmegaConf.select(config, "resume")
    if resume is None:
        return
    require(resume != "", "resume", resume, "a run folder, auto or null")
    folder = Path(resume)
    if resume == "auto":
        if "%S" in OmegaConf.to_yaml(config.hydra.run):  # named by the second: new at each start
            raise UserError(
                "resume: auto is for a run whose folder has a name: "
                "hydra.run.dir=FOLDER resume=auto"
            )
        folder = Path(config.hydra.run.dir)
        if not (folder / ACCEPTED).exists():
            return  # the run starts in it
    if is_address(resume):
        folder = copy_to_resume(resume)
    if not set(names_of(folder)) <= set(arguments):
        raise ResumeRequest(_resume_in_own_place(arguments, folder))


def _resume_in_own_place(arguments: list[str], folder: Path) -> list[str]:
    """Return `resume_arguments`; refuse to pack images where only the folder says."""
    expanded = resume_arguments(arguments, folder)
    added = [word for word in expanded if word not in arguments]
    try:
        parsed = OverridesParser.create().parse_overrides(added)
    except (HydraException, ValueError) as error:
        text = str(error).splitlines()[0]
        raise UserError(
            f"resume: {folder / ACCEPTED} is damaged ({text}). Restore it, or start a new run."
        ) from error
    for override in parsed:
        if override.key_or_group == "data.root":
            require_own_place(Path(str(override.value())))
    return expanded
