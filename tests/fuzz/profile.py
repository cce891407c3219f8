"""The number of examples, and their seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings

BY_HAND = os.environ.get("SEARCHED_EXAMPLES")

# Hypothesis also draws constants that it finds in whatever local modules are loaded: which
# examples there are would depend on what else is tested, and on each edit of any file.
with suppress(ImportError, AttributeError):  # older ones do not
    from hypothesis.internal.conjecture import providers

    none = providers._local_constants
    providers._get_local_constants = lambda: none


def examples(count: int) -> Callable[[Any], Any]:
    """A decorator: the same `count` examples each time; by hand as many as are asked for, others.

    What is found is shown as it was drawn. Making it smaller takes hundreds of further tries,
    and where each of them hangs, that is until the whole of CI is ended.
    """
    shrink = [Phase.shrink] if BY_HAND else []
    chosen = settings(
        max_examples=int(BY_HAND or count),
        database=None,
        deadline=None,  # the process beside this one has one
        phases=[Phase.explicit, Phase.generate, *shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    return lambda test: chosen(test if BY_HAND else seed(0)(test))
