"""Schedules of beta, at points that their papers' figures show."""

import math

import pytest

from vae.losses.schedules import CyclicalConfig, ScheduleConfig, WarmupConfig
from vae.runs.compose import compose
from vae.utils.registry import choices


def test_constant():
    assert [ScheduleConfig().multiplier(epoch) for epoch in (0, 0.5, 9)] == [1, 1, 1]


def test_warmup():
    schedule = WarmupConfig("warmup", epochs=2.0)
    found = [schedule.multiplier(epoch) for epoch in (0, 0.5, 1, 2, 3)]
    assert found == [0, 0.25, 0.5, 1, 1]


def test_cyclical():
    schedule = CyclicalConfig("cyclical", epochs=4.0, rising=0.5)
    found = [schedule.multiplier(epoch) for epoch in (0, 1, 2, 3, 3.99, 4, 5, 6, 8)]
    assert found == [0, 0.5, 1, 1, 1, 0, 0.5, 1, 0]


@pytest.mark.parametrize("name", choices("loss/schedule"))
def test_every_schedule_ends_at_beta(name):
    assert compose([f"loss/schedule={name}"]).loss.schedule.multiplier(math.inf) == 1
