"""Choices and metrics by name. Choices: the classes that `model=conv`, `loss=bce` ... select.

    @register("loss", "huber")
    @dataclass
    class HuberConfig(LossConfig): ...

makes `loss=huber` a choice, together with `conf/loss/huber.yaml`. Hydra's schemas and the loader of
finished runs read the choices from here. A name out of a file selects a registered class, never
an import.

    register_metric(Metric("mae", "mean absolute error", digits=4))

makes a metric known to sweeps, tables, charts, `comparison.csv` and W&B. One of each image is
registered with the function that computes it (`image_metric`); validation measures it in every run.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Class = TypeVar("Class", bound=type[Any])

ImageFunction = Callable[["Tensor", "Tensor"], "Tensor"]  # (images, reconstructions) to (batch,)
PACKAGES = ("vae.training", "vae.evaluation")  # which register metrics when they are imported

_CHOICES: dict[str, dict[str, type[Any]]] = {}


def register(group: str, name: str) -> Callable[[Class], Class]:
    """Decorate a dataclass of settings so that GROUP=NAME selects it.

    The same class may be registered again: a notebook's cell runs twice.

    Args:
        group: a folder of `conf/`, such as "loss/regularizer".
        name: the YAML file in it, without its ending; also the value of the setting `name`.

    Raises:
        ValueError: another class has that name.
    """

    def add(choice: Class) -> Class:
        known = _CHOICES.setdefault(group, {}).setdefault(name, choice)
        if (known.__module__, known.__qualname__) != (choice.__module__, choice.__qualname__):
            raise ValueError(f"{group}={name} is {known.__module__}.{known.__qualname__} already")
        _CHOICES[group][name] = choice
        return choice

    return add


def choices(group: str) -> dict[str, type[Any]]:
    """Return the classes of a group by name; {} for a group without choices."""
    return dict(_CHOICES.get(group, {}))


def groups() -> list[str]:
    """Return the groups that have choices."""
    return list(_CHOICES)


def import_modules(package: str) -> None:
    """Import every module of a package, so that the classes in them are registered."""
    found = importlib.import_module(package)
    for module in pkgutil.iter_modules(found.__path__, f"{package}."):
        importlib.import_module(module.name)


@dataclass(frozen=True)
class Metric:
    """A quantity that is measured on a split.

    Args:
        name: without the split's prefix: `psnr` is `val/psnr` where it is logged.
        label: what an axis says, with the unit.
        digits: decimals, in tables; None: four digits in all.
        higher_is_better: else a sweep minimises it.
        best_on_wandb: W&B's summary keeps the best and the last value; else the last.
        in_every_run: validation measures it; else only an evaluation does.
        function: of each image and its reconstruction, averaged over the split; None for a
            metric that validation derives in another way.
    """

    name: str
    label: str
    digits: int | None
    higher_is_better: bool = False
    best_on_wandb: bool = True
    in_every_run: bool = True
    function: ImageFunction | None = None

    @property
    def key(self) -> str:
        """The key of the logged value."""
        return f"val/{self.name}"

    def cost(self, value: float) -> float:
        """Return the value to minimise: negated where higher is better."""
        return -value if self.higher_is_better else value

    def format(self, value: float) -> str:
        """Format a value with the metric's number of digits."""
        return f"{value + 0.0:.4g}" if self.digits is None else format_fixed(value, self.digits)


def format_fixed(value: float, digits: int) -> str:
    """Format a number with this many decimals; 0 has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


_METRICS: dict[str, Metric] = {}  # by key


def register_metric(metric: Metric) -> None:
    """Register a metric, in place of one of the same name and label.

    Raises:
        ValueError: there is another one of that name.
    """
    known = _METRICS.setdefault(metric.key, metric)
    if known.label != metric.label:
        raise ValueError(f"there is a metric {metric.name} already: {known.label}")
    _METRICS[metric.key] = metric


def image_metric(
    label: str, *, digits: int, higher_is_better: bool = False
) -> Callable[[ImageFunction], ImageFunction]:
    """Decorate a function of images and reconstructions, (batch,) each, so that it is a metric.

    The metric has the function's name.
    """

    def add(function: ImageFunction) -> ImageFunction:
        name = function.__name__
        register_metric(Metric(name, label, digits, higher_is_better, function=function))
        return function

    return add


def all_metrics() -> dict[str, Metric]:
    """Return every metric, by key."""
    for package in PACKAGES:
        importlib.import_module(package)
    return _METRICS


def find_metric(key: str) -> Metric:
    """Return the metric of a key: `val/bpd`, `test/bpd`, or of best.pt `best/val/bpd`.

    A key of no metric is a label without a fixed number of digits, minimised by a sweep.
    """
    on_val = re.sub("^(best/val|test)/", "val/", key)
    return all_metrics().get(on_val) or Metric(key, key, digits=None)


def run_metrics() -> dict[str, Metric]:
    """Return the metrics that every run measures, by key."""
    return {key: metric for key, metric in all_metrics().items() if metric.in_every_run}
