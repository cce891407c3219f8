"""Which of the swept keys mattered."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from vae.metrics import MAXIMISED
from vae.sweeps.comparison import Comparison
from vae.sweeps.runs import SweepRun, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna.distributions import BaseDistribution

ENOUGH = 8  # finished runs; of fewer, it would be chance
FEWEST = 5  # bars that there is room for: one or two alone would be too thick
WIDE = 8  # values whose largest is so many times their smallest are compared by ratio


def importances(comparison: Comparison, metric: str) -> dict[str, float]:
    """The share of each swept key in which runs came out well, the largest first.

    By PED-ANOVA (Watanabe et al. 2023), which needs no more than Optuna has; for Optuna's
    sweeps and all others alike.

    Returns:
        Shares that sum to 1; {} for fewer than ENOUGH finished runs or than two keys.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    runs = comparison.ranked
    keys = [key for key in comparison.swept if len({run.value(key) for run in runs}) > 1]
    if len(runs) < ENOUGH or len(keys) < 2:
        return {}
    columns = {key: _column(runs, key) for key in keys}
    distributions = {key: _distribution(column) for key, column in columns.items()}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study
    study = optuna.create_study()
    optuna.logging.set_verbosity(verbosity)
    for index, run in enumerate(runs):
        value = run.metrics[metric]
        trial = optuna.trial.create_trial(
            params={key: column[index] for key, column in columns.items()},
            distributions=distributions,
            value=-value if metric in MAXIMISED else value,
        )
        study.add_trial(trial)
    good = min(0.5, max(0.1, 5 / len(runs)))  # what counts as coming out well: five runs at least
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = PedAnovaImportanceEvaluator(target_quantile=good)
        return dict(get_param_importances(study, evaluator=evaluator))


def draw_importances(axes: Axes, shares: dict[str, dict[str, float]], runs: int) -> None:
    """Bars: the share of each key in which runs came out well."""
    labels = []
    for metric, share in shares.items():
        for key, value in share.items():
            labels.append(key if len(shares) == 1 else f"{key} for {metric}")
            axes.barh(len(labels), value, color=f"C{list(shares).index(metric)}", height=0.5)
            axes.text(value + 0.005, len(labels), f"{value:.0%}", va="center", fontsize=9)
    axes.set_yticks(range(1, len(labels) + 1), labels)
    axes.set_ylim(max(len(labels), FEWEST) + 0.6, 0.4)  # downwards
    axes.set_xlim(0, 1.06)
    axes.set_xticks([])
    axes.set_title(f"What mattered for being good (PED-ANOVA, {runs} runs)")
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def is_wide(values: list[float]) -> bool:
    """Whether numbers belong on a logarithmic scale."""
    return min(values) > 0 and max(values) >= WIDE * min(values)


def _column(runs: list[SweepRun], key: str) -> list[float] | list[str]:
    """A key's values: numbers where all are, else texts. Seeds are names, not sizes."""
    values = [run.value(key) for run in runs]
    numbers = [found for found in map(number, values) if found is not None]
    return numbers if len(numbers) == len(values) and key != "seed" else list(map(str, values))


def _distribution(column: list[float] | list[str]) -> BaseDistribution:
    """What Optuna is to take a key's values for."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    numbers = [value for value in column if isinstance(value, float)]
    if not numbers:
        return CategoricalDistribution(sorted(set(map(str, column))))
    return FloatDistribution(min(numbers), max(numbers), log=is_wide(numbers))
