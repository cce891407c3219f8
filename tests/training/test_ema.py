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


def test_averages_follow_the_recurrence_and_leave_out_skipped_updates():
    model = nn.BatchNorm1d(2)
    average = ExponentialMovingAverage(model, decay=0.5)

    def update(value, keep):
        model.weight.data.fill_(value)
        model.running_mean.fill_(-value)
        model.num_batches_tracked.fill_(int(value))
        average.update(model, torch.tensor(keep))

    expected = None
    for n in range(30):
        value = float(n * n % 7)
        update(value, 1.0)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module.weight.tolist() == pytest.approx([expected] * 2, rel=1e-5)
        assert average.module.running_mean.tolist() == pytest.approx([-expected] * 2, rel=1e-5)
        assert average.module.num_batches_tracked == int(value)
    update(100.0, 0.0)
    assert average.module.weight.tolist() == pytest.approx([expected] * 2, rel=1e-5)


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
