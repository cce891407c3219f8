"""Resume a run: the overrides that its folder provides, and the command that resumes it.

The folder may come from somebody else, so it provides plain values of the run's own keys, and
never where a run is uploaded. (This file works without Hydra, for runs in a notebook.)
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from vae.utils.distributed import world_size
from vae.utils.errors import UserError
from vae.utils.files import read_yaml
from vae.utils.text import hydra_value

ACCEPTED = Path(".hydra", "accepted.yaml")  # overrides that a run has really run with
OWN_KEYS = ("resume", "hydra.run.dir")  # name the run: replaced when one is resumed
# Of a sweep alone: no run of it is resumed with them.
SWEEP_KEYS = ("hydra.sweep", "hydra/sweeper", "hydra/launcher", "hydra.launcher", "hydra.mode")

PLACE_KEYS = ("data.path", "data.root")  # a folder's may be refused
RESTORE = "Restore the file, or start a new run with the same overrides."
IF_YOURS = "If it is yours, add it to the command line."
HARMLESS = {  # values of the keys that select an upload or a download
    "wandb.entity": ("null",),
    "wandb.mode": ("auto", "offline", "disabled"),
    "data.download": ("false",),
}
LEFT_OUT = (
    f"is left out: a run folder decides neither about uploads nor about downloads. {IF_YOURS}"
)


def key_of(word: str) -> str:
    """Return the key of an override, `loss.beta` of `++loss.beta=1`; "" of other arguments."""
    key, equals, _ = word.partition("=")
    is_override = equals or key.startswith("~")
    return key.strip().lstrip("+~").partition("@")[0] if is_override else ""


def provides_value(override: str) -> bool:
    """Return whether an override only sets a plain value of a run, as an untrusted file may.

    Hydra's keys select code to run. `${oc.env:...}` reads this machine's environment, also
    spelled `$\\{`: of a value, Hydra's parser removes nothing but backslashes. All interpolations
    are refused, since they nest.
    """
    plain = re.fullmatch(r"[+~]{0,2}(\w[\w./@]*)(=.*)?", override, re.DOTALL)
    plain_key = plain and not re.search(r"\bhydra\b", plain[1])
    return bool(plain_key and not re.search(r"\$\\*\{", override))


def reaches_network(override: str) -> bool:
    """Return whether an override selects an upload or a download: its command must say so.

    (A whole group at once, `wandb={entity: ...}`, is refused on every command line.)
    """
    value = override.partition("=")[2].strip(" '\"").lower()
    return value not in HARMLESS.get(key_of(override), (value,))


def resume_arguments(arguments: list[str], folder: Path) -> list[str]:
    """Return command-line arguments for the run in `folder`: its own overrides, then the given.

    Raises:
        UserError: its overrides cannot be read, or one may do more than set a value.
    """
    given = [word for word in arguments if key_of(word) not in OWN_KEYS]
    return [*_accepted_overrides(folder, {*map(key_of, given)}), *given, *names_of(folder)]


def names_of(folder: Path) -> list[str]:
    """Return the overrides that make Hydra resume the run in `folder`."""
    value = hydra_value(str(folder.resolve()))
    return [f"{key}={value}" for key in OWN_KEYS]


def _accepted_overrides(folder: Path, anew: set[str]) -> list[str]:
    """Return the overrides of the run in `folder`, except keys given again."""
    path = folder / ACCEPTED
    if not path.is_file():
        raise UserError(f"resume: {folder} is no run folder: it has no {ACCEPTED}.")
    try:
        found = read_yaml(path)
    except Exception as error:  # of YAML's, OmegaConf's or the disk's
        raise UserError(
            f"resume: {path} cannot be read ({type(error).__name__}). {RESTORE}"
        ) from error
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise UserError(f"resume: {path} is damaged: it is no list of KEY=VALUE. {RESTORE}")
    # a run by itself needs no study, and the URL of one may be an interpolation
    kept = [each for each in found if key_of(each) not in {"resume", "sweep.storage", *anew}]
    for override in kept:
        if not provides_value(override):
            raise UserError(
                f"resume: {path} holds {override!r}, which may do more than set a "
                f"value of the run. {IF_YOURS}"
            )
    for override in filter(reaches_network, kept):
        print(f"resume: {override!r} of {path} {LEFT_OUT}", file=sys.stderr)
    return [override for override in kept if not reaches_network(override)]


def resume_command(folder: Path) -> str:
    """Return the shell command that resumes the run in `folder`.

    It has those arguments of this process that the folder does not provide.
    """
    script, *arguments = sys.argv
    program = ["python"]
    if world_size() > 1:
        program = ["torchrun", f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}"]
    if Path(script).name != "train.py":  # a notebook, or a `vae` command
        script, arguments = "train.py", []
    needed = [
        word
        for word in arguments
        if word not in ("-m", "--multirun")
        and not key_of(word).startswith((*OWN_KEYS, *SWEEP_KEYS))
        and (key_of(word) in ("", *PLACE_KEYS) or not provides_value(word) or reaches_network(word))
    ]
    return shlex.join([*program, script, *needed, f"resume={hydra_value(str(folder))}"])
