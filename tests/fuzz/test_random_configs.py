"""Any configuration trains, or is refused with a message that names the key."""

from __future__ import annotations

import math
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given

from tests.fuzz.isolated import examples
from tests.fuzz.override_strategies import base, overrides
from tests.support.train_command import call_train
from vae.runs.compose import compose
from vae.runs.launch import prepare_run
from vae.runs.load import load_run
from vae.utils.errors import UserError

# What a value may be refused for in the name of another key, which it does not go with.
PARTNERS = {"data.num_images": ("data.batch_size",), "model.channels": ("data.image_size",)}


def train(arguments: list[str]) -> None:
    """Two steps, and the run is read back."""
    shutil.rmtree("run", ignore_errors=True)
    config, run = compose(arguments), Path("run").absolute()
    metrics = prepare_run(config, run).train()
    assert all(map(math.isfinite, metrics.values())), metrics
    assert load_run(run).config == config


def command(arguments: list[str]) -> None:
    """The same by `python train.py`: nothing but a message where it is refused."""
    shutil.rmtree("run", ignore_errors=True)
    said = StringIO()
    capsys = SimpleNamespace(readouterr=lambda: SimpleNamespace(out="", err=""))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        code, _, _ = call_train([*arguments, "hydra.run.dir=run"], Path.cwd(), patch, capsys)
    assert "Traceback" not in said.getvalue(), said.getvalue()
    if code:
        raise UserError(said.getvalue())
    assert Path("run", "summary.json").exists()


def names(message: str, override: str) -> bool:
    """Whether a message says which override it is about, by its whole key."""
    key = re.split("[=@[]", override.lstrip("+~"))[0]
    return any(name in message for name in (key, override, *PARTNERS.get(key, ())))


@pytest.mark.parametrize(
    ("does", "count"),
    [(train, 30), pytest.param(train, 100, marks=pytest.mark.slow), (command, 10)],
)
def test_configurations(does, count, isolated):
    @given(overrides())
    @example(("synthetic", [f"trainer.checkpoint_every='{'9' * 5000}'"]))  # found by others' seeds
    @example(("synthetic", [f"trainer.checkpoint_every='{'9' * 5000}min'"]))
    @example(("synthetic", ["metrics.parts=[{a:1}]"]))
    @examples(count)
    def search(drawn):
        source, given_ones = drawn
        keys = {one.lstrip("+").partition("=")[0] for one in given_ones}
        under = [one for one in base(source) if one.partition("=")[0] not in keys]
        message = isolated(does, [*under, *given_ones])
        assert message is None or any(names(message, one) for one in given_ones), message

    search()
