"""Compose `conf/` and the command line to a configuration, with Hydra.

Hydra refuses an unknown key or a wrong type while it composes; `to_config` runs the range
checks and hands the rest of the code plain dataclasses. Hydra and OmegaConf's containers
are known here and in `train.py`, `vae/runs/{overrides,launch,load}.py` and `vae/sweeps/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae.runs.config import RunConfig
from vae.runs.wandb_settings import fitting_name
from vae.utils.errors import UserError, require
from vae.utils.registry import choices, groups
from vae.utils.text import truncate

CONF = Path(__file__).parents[2] / "conf"
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MAX_DIGITS = 308  # of a number: with more, Python has no float of it
MAX_VALUES = 100_000  # of a swept range: Hydra lists them all
MAX_SETTINGS = 1000  # values of a configuration in a file; there are about 70


def register_schemas() -> None:
    """Register the schemas with Hydra; the YAML file of a choice names its schema in its defaults.

    The schemas lie in a group of their own, so that `model=` offers models alone.
    """
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="schema", name="run", node=RunConfig, replace=True)
    for group in groups():
        for name, kind in choices(group).items():
            schema = OmegaConf.structured(kind)
            schema.name = name
            store.store(group=f"schema/{group}", name=name, node=schema, replace=True)


def reject_unparsable(overrides: list[str]) -> None:
    """Reject overrides that Hydra would answer with a traceback.

    Raises:
        UserError: an override has no key, a number too large for any key, or for a group
            a number, null or a mapping.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import RangeSweep
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for line in overrides:
        digits = max((len(number) for number in re.findall(r"[\d_]+", line)), default=0)
        if digits > MAX_DIGITS:
            raise UserError(
                f"{truncate(line, 60)}: a number of {digits} digits. Take one of at most "
                f"{MAX_DIGITS}."
            )
        try:
            override = parser.parse_override(line)
        except HydraException:
            continue
        key, value = override.key_or_group, override.value()
        require(bool(key), line, line, "KEY=VALUE")
        if "=" in line and re.fullmatch(r"\w+", line.partition("=")[0]):
            _require_known(key)
        text = line.partition("=")[2]
        if isinstance(value, RangeSweep):
            start, stop, step = (float(end or 0) for end in (value.start, value.stop, value.step))
            fits = step != 0 and 0 < (stop - start) / step <= MAX_VALUES
            require(fits, key, text, f"range(start,stop,step) of 1 to {MAX_VALUES} values")
        if key == "hydra.verbose":
            require(isinstance(value, bool | str | list), key, value, "true, false or a logger")
        is_group = key.startswith("hydra/") or key == "hydra" or (CONF / key).is_dir()
        values = getattr(value, "list", value)  # of a sweep
        values = values if isinstance(values, list) else [values]
        settings = any(isinstance(each, int | float | dict | None) for each in values)
        if is_group and settings and not override.is_delete():
            known = ", ".join(sorted(path.stem for path in (CONF / key).glob("*.yaml")))
            complete = bool(known) and not key.startswith("hydra")  # its plugins have more
            choose = f", or choose one of {known}" * complete
            raise UserError(f"{key}: got {text}. Leave it out{choose}.")


def _require_known(key: str) -> None:
    """Raise a UserError if a key without a group is unknown; it names similar keys."""
    if key == "hydra" or (CONF / key).is_dir() or key in RunConfig.__dataclass_fields__:
        return
    kinds = list(get_type_hints(RunConfig).items())
    kinds += [
        (group.replace("/", "."), kind) for group in groups() for kind in choices(group).values()
    ]
    keys = {
        f"{group}.{name}"
        for group, kind in kinds
        for name in getattr(kind, "__dataclass_fields__", {})
        if name != "name"
    } | RunConfig.__dataclass_fields__.keys()
    endings = {name.rpartition(".")[2] for name in keys}
    close = [key] if key in endings else get_close_matches(key, endings, n=2, cutoff=0.7)
    meant = [name for name in sorted(keys) if name.rpartition(".")[2] in close]
    hint = f"Did you mean {' or '.join(meant)}?" if meant else "python train.py --help lists all."
    raise UserError(f"{key}: there is no such key. {hint}")


def compose(overrides: list[str]) -> RunConfig:
    """Compose the configuration that `python train.py OVERRIDES` would run with."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register_schemas()
    reject_unparsable(overrides)
    with hydra_errors(), initialize_config_dir(str(CONF)):
        return to_config(hydra_compose("train", overrides))


@contextmanager
def hydra_errors() -> Iterator[None]:
    """Raise the errors of Hydra and OmegaConf as UserErrors, without a traceback."""
    from hydra.errors import HydraException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        causes = (error, error.__cause__)
        text = "\n".join(str(each) for each in causes if each).expandtabs(2)
        raise UserError(text) from error
    except (TypeError, ValueError) as error:  # of options, or of a sampler that Hydra builds
        modules = [
            str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)
        ]
        builds = any(name.startswith("hydra._internal.instantiate") for name in modules)
        if not (builds or modules[-1].startswith("hydra.")):
            raise
        key = getattr(error, "__notes__", ())[:1]  # of Hydra: full_key: hydra.sweeper.sampler
        raise UserError("\n".join([str(error), *key])) from error


def to_config(composed: DictConfig) -> RunConfig:
    """Convert Hydra's composed config to plain dataclasses; check every range.

    Raises:
        UserError: names the key, its value and the accepted values.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:  # in one of its interpolations, ${...}
        what = str(error).splitlines()[0]
        raise UserError(f"{error.full_key or _unresolvable(composed)}: {what}.") from error
    for group in groups():
        if group.replace("/", ".") + ".name" in missing:
            line = f"defaults: [/schema/{group}/NAME@_here_]"
            raise UserError(f"{group}: the file that was chosen in conf/{group} lacks {line}.")
    if missing:
        raise UserError(f"{missing[0]}: needs a value, for example {missing[0]}=...")
    _reject_unknown_keys(composed)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, RunConfig)
    for key, value in flatten(config.as_dict()).items():
        for text in value if isinstance(value, list) else [value]:
            require(text != "", key, text, "a text that is not empty")  # a variable may be
            require_printable(key, text)
    return config


def require_printable(key: str, value: object) -> None:
    """Raise a UserError if there is a line break or control character in a value's text.

    In a path, it would reach logs, terminals and commands.
    """
    found = CONTROL_CHARACTER.search(str(value))
    require(found is None, key, value, "a text without line breaks and control characters")


def run_config(values: Any, changes: Mapping[str, Any] | DictConfig | None = None) -> RunConfig:
    """Build a configuration from nested dicts out of a file; keys with a default may be missing.

    A name in it selects one of this project's classes. Nothing is looked up for it: a value
    with `${` is refused.

    Args:
        values: of an untrusted file.
        changes: settings of the user's that replace some of them.

    Raises:
        UserError: names the key that is unknown, missing or has a wrong type or value.
    """
    try:
        require_few(values, MAX_SETTINGS)
        for key, value in flatten(values).items():  # before OmegaConf sees any of them
            require("${" not in str(value), key, value, "a plain value, without ${")
        given, node = OmegaConf.create(values), OmegaConf.structured(RunConfig)
        name = OmegaConf.select(given, "wandb.name")
        if isinstance(name, str):  # of older versions, longer than W&B takes
            OmegaConf.update(given, "wandb.name", fitting_name(name))
        for group in sorted(groups()):  # a group before those in it
            key = group.replace("/", ".")
            if OmegaConf.select(given, key) is not None:
                name, known = OmegaConf.select(given, f"{key}.name"), choices(group)
                takes = f"one of {', '.join(known)} in this version"
                require(name in known, f"{key}.name", name, takes)
                OmegaConf.update(node, key, OmegaConf.structured(known[name]), merge=False)
        merged = OmegaConf.merge(node, given, changes or {})
        assert isinstance(merged, DictConfig)
        return to_config(merged)
    except OmegaConfBaseException as error:
        what = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{error.full_key or 'config'}: {what}.") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise UserError(f"config: not settings of this version ({type(e).__name__}).") from e


def require_few(values: Any, limit: int) -> None:
    """Raise a ValueError if more than `limit` values are nested in each other.

    In a pickle, a list may hold another many times, which takes no more bytes than once.
    """
    waiting, found = [values], 0
    while waiting:
        value = waiting.pop()
        waiting += value.values() if isinstance(value, Mapping) else ()
        waiting += value if isinstance(value, list | tuple | set | frozenset) else ()
        found += 1
        if found + len(waiting) > limit:
            raise ValueError(f"more than {limit:,} values")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings: {"loss.schedule.name": ...}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inside = isinstance(value, Mapping)
        found |= flatten(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return found


def _unresolvable(composed: DictConfig) -> str:
    """Return the key whose interpolation fails, for errors that do not name it."""
    plain: Any = OmegaConf.to_container(composed)
    for key in flatten(plain):
        try:
            OmegaConf.select(composed, key)
        except OmegaConfBaseException:
            return key
    return ""


def _reject_unknown_keys(node: DictConfig, path: str = "") -> None:
    """Reject unknown keys that a + let past Hydra, and keys that a ~ deleted."""
    kind = OmegaConf.get_type(node)
    known = [field.name for field in fields(kind)] if is_dataclass(kind) else []
    for gone in [path + each for each in known if each not in node]:
        raise UserError(f"{gone}: needs a value, for example {gone}=...")
    for key in node:
        name = path + str(key)
        if known and key not in known:
            raise UserError(f"{name}: there is no such key; known are {', '.join(sorted(known))}.")
        if isinstance(node._get_node(key), DictConfig):
            _reject_unknown_keys(node[key], f"{name}.")
