"""Overrides (`KEY=VALUE` on the command line): run names, and `resume=`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vae.runs.run_dir import require_own_place
from vae.utils.errors import UserError
from vae.utils.files import read_text, read_yaml, write_text_atomically
from vae.utils.text import safe_name

ACCEPTED = Path(".hydra", "accepted.yaml")  # overrides that a run has really run with
RESOLVER = re.compile(r"\$\{[^}]*:")  # `${now:...}` and the like
UNNAMED_KEYS = ("wandb.", "sweep.", "resume")  # overrides that do not affect training


def run_name(overrides: list[str], fixed: list[str]) -> str:
    """Return a run's name: its overrides, sorted, without the keys that all runs share.

    Args:
        overrides: as on the command line, `["loss.beta=1e-05", "data.path=/a/b"]`;
            those of UNNAMED_KEYS are left out, too.
        fixed: keys to leave out, `["data.path"]`.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    differing = [
        _short(o)
        for o in parsed
        if o.key_or_group not in fixed and not o.key_or_group.startswith(UNNAMED_KEYS)
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


def expand_resume(arguments: list[str]) -> list[str]:
    """Expand `resume=FOLDER` in command-line arguments to that run's own overrides.

    So `python train.py resume=FOLDER trainer.epochs=20` resumes with what the run was
    started with, in its folder, but for what is given anew. `resume=auto` is that with the
    folder of `hydra.run.dir=`, where it holds a run; otherwise the run starts in it.

    Raises:
        UserError: there is no run in that folder, or it has no harmless overrides, or a
            sweep is asked for.
    """
    given = _given(arguments, "resume")
    if given in (None, "", "null"):
        return arguments
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("resume: takes one run. Leave out -m.")
    others = [a for a in arguments if not a.startswith("resume=")]
    run_dir = _given(arguments, "hydra.run.dir")
    if given == "auto" and run_dir is None:
        raise UserError(
            "resume: auto is for a run whose folder has a name: hydra.run.dir=FOLDER resume=auto"
        )
    named = run_dir if given == "auto" and run_dir else str(given)
    folder = Path(named.strip("'\"")).resolve()
    if (folder / ACCEPTED).is_file():
        earlier = _safe_overrides(folder, {a.partition("=")[0] for a in others})
    elif given != "auto":
        raise UserError(f"resume: {folder} is no run folder: it has no {ACCEPTED}.")
    elif not (folder / "checkpoints").is_dir():
        return others
    else:  # it was killed while its images were packed
        earlier = []
    quoted = "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"
    return [*earlier, *others, f"resume={quoted}", f"hydra.run.dir={quoted}"]


def _given(arguments: list[str], key: str) -> str | None:
    """Return the last value of a key on the command line, or None."""
    values = [a.partition("=")[2] for a in arguments if a.startswith(f"{key}=")]
    return values[-1] if values else None


def _safe_overrides(folder: Path, anew: set[str]) -> list[str]:
    """Return the overrides of the run in `folder`, except keys given again.

    Only values of a run's own keys are safe: the folder is untrusted, and Hydra's keys
    select code to run, resolvers (`${oc.env:...}`) read this machine's environment.

    Raises:
        UserError: the file is damaged, or there is another value in it; says which.
    """
    path = folder / ACCEPTED
    try:
        found = read_yaml(path)
    except Exception as error:  # of YAML's, OmegaConf's or the disk's
        raise UserError(f"resume: {path} cannot be read ({type(error).__name__}).") from error
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise UserError(f"resume: {path} is damaged: it is no list of KEY=VALUE.")
    # a sweep's study is of no use to a run by itself, and its URL may be an interpolation
    left_out = {"resume", "sweep.storage", *anew}
    kept = [each for each in found if each.partition("=")[0] not in left_out]
    for override in kept:
        harmless = re.fullmatch(r"[+~]{0,2}\w[\w./@]*(=.*)?", override, re.DOTALL)
        if not harmless or re.match(r"[+~]*hydra\b", override) or RESOLVER.search(override):
            raise UserError(
                f"resume: {path} holds {override!r}, which may do more than set a "
                "value of the run. Where you know that it is yours, give it anew."
            )
    require_own_places(kept)
    return kept


def require_own_places(overrides: list[str]) -> None:
    """Refuse overrides of an untrusted folder that pack or download images to another place."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except (HydraException, ValueError) as error:
        raise UserError(f"resume: an override of the run cannot be parsed: {error}") from error
    values = {override.key_or_group: override.value() for override in parsed}
    for key in ("data.root", "data.path") if "data.download" in values else ("data.root",):
        require_own_place(key, Path(str(values.get(key, "."))))
