"""The search space of a study, read from overrides, and tried out before a trial starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler

from vae.utils.errors import UserError

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader

Space = dict[str, BaseDistribution]  # by override key
SINGLE_KEYS = ("sweep.", "resume", "objective")  # of which a study needs one value


def read_space(lines: Sequence[str], loader: ConfigLoader) -> tuple[Space, list[str]]:
    """Return the keys to search, and the overrides that all trials have.

    Args:
        lines: overrides, `loss.beta=interval(0,1)`; a later one of a key counts.
        loader: knows the choices of groups, for `model=glob(*)`.

    Raises:
        UserError: one of them cannot be searched, or none is to be.
    """
    parser = OverridesParser.create(config_loader=loader)
    space: Space = {}
    shared: dict[str, str] = {}
    for line in lines:
        (override,) = parser.parse_overrides([line])
        key = override.get_key_element()
        value = override.value()
        try:
            if isinstance(value, Glob):
                names = list(override.sweep_string_iterator())
                if not names:
                    raise ValueError("It matches no choice of a group.")
                line = f"{key}={','.join(names)}"
            found, *_ = create_params_from_overrides([line])
        except (AssertionError, ValueError, NotImplementedError) as error:
            text = line.partition("=")[2]
            raise UserError(f"{key}: {text} cannot be searched: {error}") from error
        if found and key.startswith(SINGLE_KEYS):
            raise UserError(f"{key}: got {line.partition('=')[2]}, but a study takes one value.")
        space.pop(key, None)
        shared.pop(key, None)
        if found:
            space |= found
        else:
            shared[key] = line
    if not space:
        raise UserError("hydra.sweeper.params: nothing to search: every key has one value.")
    return space, list(shared.values())


def rehearse(
    sampler: BaseSampler,
    space: Mapping[str, BaseDistribution],
    directions: list[Any],
    random_trials: int,
    compose: Callable[[dict[str, Any]], object],
) -> None:
    """Ask a copy of the sampler for a trial of a study in memory, and compose its configuration.

    The sampler's own settings are right by then, as Hydra has built it; whether it can search
    this space shows only here.

    Args:
        directions: as of `optuna.create_study`.
        random_trials: trials that the sampler draws at random before it does anything else.
        compose: takes the values of a trial; each choice is composed.

    Raises:
        UserError: the sampler cannot search this space.
        HydraException: the values of a trial cannot be composed.
    """
    study = optuna.create_study(sampler=RandomSampler(seed=0), directions=directions)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number in range(random_trials + 2):
                if number == random_trials + 1:
                    study.sampler = deepcopy(sampler)
                trial = study.ask()
                values = {key: trial._suggest(key, values) for key, values in space.items()}
                study.tell(trial, [float(number)] * len(directions))
    except Exception as error:  # of Optuna, numpy or scipy
        name = type(sampler).__name__
        raise UserError(
            f"hydra/sweeper/sampler: {name} cannot search {', '.join(space)}: "
            f"{type(error).__name__}: {error}. Fix the values of the keys or "
            "hydra.sweeper.sampler, or take another: tpe, gp, qmc, nsgaii, random."
        ) from error
    compose(values)
    choices = {key: kind.choices for key, kind in space.items() if hasattr(kind, "choices")}
    for number in range(max(map(len, choices.values()), default=0)):
        compose({**values, **{key: one[number % len(one)] for key, one in choices.items()}})
