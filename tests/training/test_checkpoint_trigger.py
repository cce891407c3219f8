"""When a checkpoint is due within an epoch."""

from unittest import mock

import pytest

from vae.training.base import CheckpointTrigger
from vae.utils.errors import UserError

MANY = "9" * 5000  # digits, which Python would not read


@pytest.mark.parametrize(
    "every", ["0", "-5", "5.5", "min", "10 h", "nan", "", "1e3", MANY, f"{MANY}min", f"1.{MANY}min"]
)
def test_valid_and_invalid_intervals(every):
    with pytest.raises(UserError, match=r"trainer\.checkpoint_every: got .* 10min"):
        CheckpointTrigger(every)


def test_steps():
    saving = CheckpointTrigger("3")
    assert [step for step in range(1, 10) if saving.is_due(step)] == [3, 6, 9]


@pytest.mark.parametrize(("every", "seconds"), [("2min", 120), ("0.5min", 30), ("10 min", 600)])
def test_minutes_since_the_last_one(every, seconds):
    with mock.patch("time.monotonic", return_value=1000.0) as clock:
        saving = CheckpointTrigger(every)
        clock.return_value += seconds - 1
        assert not saving.is_due(1)
        clock.return_value += 1
        assert saving.is_due(1)
        saving.saved()
        assert not saving.is_due(2)


def test_never():
    assert not any(CheckpointTrigger(None).is_due(step) for step in range(1000))
