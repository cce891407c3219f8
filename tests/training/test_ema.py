"""The moving average of the weights, against its recurrence and in a whole run."""

import pytest
import torch
from torch import nn

from tests.support.run_files import rows
from tests.support.train_command import TINY, call_train
from vae.runs.load import load_run
from vae.training.optim import ExponentialMovingAverage
from vae.utils.errors import UserError


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


def test_an_average_can_start_in_a_resumed_run_and_is_measured_beside_it(
    tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    assert call_train([*TINY, "hydra.run.dir=run"], tmp_path, monkeypatch, capsys)[0] == 0
    with pytest.raises(UserError, match=r"trainer\.ema"):
        load_run(run, "ema")
    more = ["resume=run", "trainer.epochs=3", "trainer.ema=0.9"]
    assert call_train(more, tmp_path, monkeypatch, capsys)[0] == 0
    row = rows(run)[-1]
    assert row["ema/bpd"] != row["val/bpd"]
    last, average = load_run(run), load_run(run, "ema")
    assert last.metrics["val/bpd"] == row["val/bpd"]
    assert average.metrics["val/bpd"] == row["ema/bpd"]
    pairs = zip(last.model.parameters(), average.model.parameters(), strict=True)
    assert all((a != b).any() for a, b in pairs)
