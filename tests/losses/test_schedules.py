"""Schedules of beta, at points that their papers' figures show."""

import math

import pytest

from vae.losses.schedules import CyclicalConfig, ScheduleConfig, WarmupConfig

CYCLES = {0: 0, 1: 0.5, 2: 1, 3: 1, 3.99: 1, 4: 0, 5: 0.5, 6: 1, 8: 0}


@pytest.mark.parametrize(
    ("schedule", "multipliers"),
    [
        (ScheduleConfig(), {0: 1, 0.5: 1, 9: 1}),
        (WarmupConfig("warmup", epochs=2.0), {0: 0, 0.5: 0.25, 1: 0.5, 2: 1, 3: 1}),
        (CyclicalConfig("cyclical", epochs=4.0, rising=0.5), CYCLES),
    ],
)
def test_multipliers_by_epoch_end_at_one(schedule, multipliers):
    multipliers = {**multipliers, math.inf: 1}
    assert {epoch: schedule.multiplier(epoch) for epoch in multipliers} == multipliers
