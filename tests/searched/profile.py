"""How many examples are tried."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

BY_HAND = os.environ.get("SEARCHED_EXAMPLES")


def examples(count: int) -> settings:
    """The same `count` examples each time; by hand as many as are asked for, by another seed."""
    return settings(
        max_examples=int(BY_HAND or count),
        derandomize=not BY_HAND,
        database=None,
        deadline=None,  # the process beside this one has one
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
