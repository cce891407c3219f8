"""Schedules of beta, at points that their papers' figures show."""

import math

import pytest

from vae.losses.schedules import CyclicalConfig, ScheduleConfig, WarmupConfig
from vae.runs.compose import compose
from vae.utils.registry import choices

CYCLES = {0: 0, 1: 0.5, 2: 1, 3: 1, 3.99: 1, 4: 0, 5: 0.5, 6: 1, 8: 0}


@pytest.mark.parametrize(
    ("schedule", "multipliers"),
    [
        (ScheduleConfig(), {0: 1, 0.5: 1, 9: 1}),
        (WarmupConfig("warmup", epochs=2.0), {0: 0, 0.5: 0.25, 1: 0.5, 2: 1, 3: 1}),
        (CyclicalConfig("cyclical", epochs=4.0, rising=0.5), CYCLES),
    ],
)
def test_multipliers_by_epoch(schedule, multipliers):
    assert {epoch: schedule.multiplier(epoch) for epoch in multipliers} == multipliers


@pytest.mark.parametrize("name", choices("loss/schedule"))
def test_every_schedule_ends_at_beta(name):
    assert compose([f"loss/schedule={name}"]).loss.schedule.multiplier(math.inf) == 1
