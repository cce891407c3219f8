"""The moving average of the weights, against its recurrence and in a whole run."""

import pytest
import torch
from torch import nn

from tests.support.run_files import rows
from tests.support.train_command import TINY, call_train, run_train
from vae.runs.load import load_run
from vae.training.optim import ExponentialMovingAverage
from vae.utils.errors import UserError

AVERAGED = ["trainer.ema=0.9", "optimizer.schedule=constant", "hydra.run.dir=run"]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))


def set_to(model, value):
    model.weight.data.fill_(value)
    model.mean.fill_(-value)
    model.count.fill_(int(value))


def test_averages_follow_the_recurrence():
    model = Small()
    average = ExponentialMovingAverage(model, decay=0.5)
    expected = None
    for n in range(30):
        set_to(model, float(n * n % 7))
        average.update(model, torch.tensor(1.0))
        value = float(n * n % 7)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module.weight.tolist() == pytest.approx([expected] * 2, rel=1e-5)
        assert average.module.mean.tolist() == pytest.approx([-expected] * 2, rel=1e-5)
        assert average.module.count == int(value)


def test_a_skipped_update_changes_nothing():
    model = Small()
    average = ExponentialMovingAverage(model, decay=0.9)
    for value in (1.0, 2.0):
        set_to(model, value)
        average.update(model, torch.tensor(1.0))
    before = average.module.weight.clone()
    set_to(model, 100.0)
    average.update(model, torch.tensor(0.0))
    assert (average.module.weight == before).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ema")
    assert run_train([*TINY, *AVERAGED], folder).returncode == 0
    return folder / "run"


def test_both_models_are_measured(run):
    validated = [row for row in rows(run) if "val/bpd" in row]
    assert all(row["ema/bpd"] != row["val/bpd"] for row in validated)
    last, average = load_run(run), load_run(run, "ema")
    assert last.metrics["val/bpd"] == validated[-1]["val/bpd"]
    assert average.metrics["val/bpd"] == validated[-1]["ema/bpd"]
    pairs = zip(last.model.parameters(), average.model.parameters(), strict=True)
    assert all((a != b).any() for a, b in pairs)


def test_the_average_can_start_in_a_resumed_run(tmp_path, monkeypatch, capsys):
    """Before that the run has none to load."""
    assert call_train([*TINY, "hydra.run.dir=run"], tmp_path, monkeypatch, capsys)[0] == 0
    with pytest.raises(UserError, match=r"trainer\.ema"):
        load_run(tmp_path / "run", "ema")
    more = ["resume=run", "trainer.epochs=3", "trainer.ema=0.9"]
    assert call_train(more, tmp_path, monkeypatch, capsys)[0] == 0
    assert "ema/bpd" in rows(tmp_path / "run")[-1]
