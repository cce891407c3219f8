"""Every number in the configuration: refused by its key, with its range, or within that range."""

import math
import re
from dataclasses import fields

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae.evaluation import MetricsConfig
from vae.runs.compose import CONF
from vae.runs.config import SweepConfig
from vae.training import TrainerConfig
from vae.utils.errors import UserError
from vae.utils.registry import choices, groups

LARGEST, SMALLEST = 1e12, 1e-30  # of all ranges but those of seeds
VALUES = [-1, 0, 1, 2, 7, 0.5, 1e-320, 1e-45, 1e30, 1e308, math.inf, -math.inf, math.nan]
VALUES += [sign * 2**power for power in (31, 32, 63, 64, 1000) for sign in (1, -1)]
VALUES += [10**39, 10**400, True, "many", "1e400", "nan", [1], [[1]]]


def all_settings():
    """Yield the key of each group of settings, their class, and the values in its YAML file."""
    whole = OmegaConf.load(CONF / "train.yaml")
    for group in groups():
        for name, kind in choices(group).items():
            values = OmegaConf.load(CONF / group / f"{name}.yaml")
            values["name"] = name
            values["path"] = "pictures"
            known = {field.name for field in fields(kind)} & set(values)
            yield group.replace("/", "."), kind, OmegaConf.masked_copy(values, [*known])
    yield "trainer", TrainerConfig, OmegaConf.load(CONF / "trainer" / "default.yaml")
    yield "sweep", SweepConfig, OmegaConf.merge(whole.sweep, {"name": "s"})
    yield "metrics", MetricsConfig, whole.metrics


NUMBERS = [
    pytest.param(group, kind, values, field, id=f"{group}.{field.name} of {kind.__name__}")
    for group, kind, values in all_settings()
    for field in fields(kind)
    if re.search("int|float", str(field.type)) or field.name == "crop"
]
# Where the YAML file has null; else 1.
GOOD = {"ema": 0.5, "num_images": 1000, "face_box": [0.1, 0.1, 0.8], "rungs": [1]}


def accepted(base, name, given):
    """The value or values that the field has then; or the refusal."""
    try:
        got = getattr(OmegaConf.to_object(OmegaConf.merge(base, {name: given})), name)
    except (UserError, OmegaConfBaseException, OverflowError) as error:
        return [], error
    return got if isinstance(got, list) else [got], None


@pytest.mark.parametrize(("group", "kind", "values", "field"), NUMBERS)
def test_a_number_is_within_its_range_or_refused_by_its_key(group, kind, values, field):
    base = OmegaConf.merge(OmegaConf.structured(kind), values)
    default = OmegaConf.to_container(base)[field.name]
    good = GOOD.get(field.name, 1) if default is None else default
    taken, _ = accepted(base, field.name, good)
    assert taken == (good if isinstance(good, list) else [good])
    lists = [[value] for value in VALUES] if "list" in str(field.type) else []
    found = []
    for given in [*VALUES, *lists, [0.9, math.nan], [0.1, 0.1, 1e-320]]:
        got, error = accepted(base, field.name, given)
        found += got
        if isinstance(error, UserError):
            assert re.match(rf"{re.escape(group)}\.{field.name}: got ", str(error)), (given, error)
            assert len(str(error)) < 500
        elif isinstance(error, OmegaConfBaseException):  # a wrong type
            assert str(error.full_key).startswith(field.name)
        elif error:  # refused before Hydra composes
            assert given in (10**400, [10**400])
    assert all(abs(value) <= LARGEST for value in found if field.name != "seed")
    if 0 not in found:  # where 0 is taken, 1e-320 may be: both are 0 in float32
        assert all(abs(value) >= SMALLEST for value in found)
