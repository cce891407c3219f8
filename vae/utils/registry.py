"""Choices by name: the classes that `model=conv`, `loss=bce` and the like select.

    @register("loss", "huber")
    @dataclass
    class HuberConfig(LossConfig): ...

makes `loss=huber` a choice, together with `conf/loss/huber.yaml`. Hydra's schemas and the loader of
finished runs read the choices from here. A name out of a file selects a registered class, never
an import.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type[Any])

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
