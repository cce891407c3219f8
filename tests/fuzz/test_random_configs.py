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
from hydra.errors import HydraException
from hypothesis import example, given
from omegaconf.errors import OmegaConfBaseException

from tests.fuzz.isolated import Apart, Outcome
from tests.fuzz.override_strategies import base, composed, overrides
from tests.fuzz.profile import examples
from tests.support.celeba_stand_in import make
from tests.support.data_sets import save_noise
from tests.support.train_command import call_train


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """A process to train in, in a folder with pictures."""
    with Apart(make_pictures(tmp_path_factory.mktemp("searched"))) as process:
        yield process


def make_pictures(folder: Path) -> Path:
    for number in range(40):
        save_noise(folder / "pictures" / f"{number}.png", seed=number)
    make(folder / "celeba", "zip", 30)
    return folder


def train(folder: Path, source: str, drawn: list[str]) -> str:
    """Two steps, and the run is read back."""
    from vae.runs.compose import to_config
    from vae.runs.launch import prepare_run
    from vae.runs.load import load_run
    from vae.utils.errors import UserError

    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    try:
        found = composed([*below(folder, source, drawn), *drawn])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{error}\n{error.__cause__}") from error
    config = to_config(found)
    metrics = prepare_run(config, run).train()
    assert all(map(math.isfinite, metrics.values())), metrics
    assert load_run(run).config == config
    return "trained"


def command(folder: Path, source: str, drawn: list[str]) -> str:
    """The same by `python train.py`: nothing but a message where it is refused."""
    from vae.utils.errors import UserError

    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    out, err = StringIO(), StringIO()
    printed = SimpleNamespace(out="", err="")
    arguments = [*below(folder, source, drawn), "hydra.run.dir=run", *drawn]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        capsys = SimpleNamespace(readouterr=lambda: printed)
        code, _, _ = call_train(arguments, folder, patch, capsys)
    said = out.getvalue() + err.getvalue()
    assert "Traceback" not in said, said
    if code:
        raise UserError(said)
    assert (run / "summary.json").exists()
    return "trained"


def below(folder: Path, source: str, drawn: list[str]) -> list[str]:
    """The base overrides; no key is given twice."""
    keys = {one.lstrip("+").partition("=")[0] for one in drawn}
    under = base(source, folder / "pictures", folder / "celeba")
    return [one for one in under if one.partition("=")[0] not in keys]


def fault(outcome: Outcome, drawn: list[str]) -> str:
    """Describe what is wrong with an outcome, "" if nothing is."""
    if outcome.kind == "works":
        return ""
    if outcome.kind != "refused":
        return str(outcome)
    return "" if any(names(outcome.value, one) for one in drawn) else f"names no key: {outcome}"


def names(message: str, override: str) -> bool:
    """Whether a message says which override it is about, by its whole key."""
    key = re.split("[=@[]", override.lstrip("+~"))[0]
    return any(name in message for name in (key, override, *PARTNERS.get(key, ())))


# What a value may be refused for in the name of another key, which it does not go with.
PARTNERS = {"data.num_images": ("data.batch_size",), "model.channels": ("data.image_size",)}


@given(overrides())
@example(("synthetic", [f"trainer.checkpoint_every='{'9' * 5000}'"]))  # found by others' seeds
@example(("synthetic", [f"trainer.checkpoint_every='{'9' * 5000}min'"]))
@example(("synthetic", ["metrics.parts=[{a:1}]"]))
@examples(30)
def test_configurations(apart, drawn):
    found = fault(apart(train, apart.folder, *drawn), drawn[1])
    assert not found, f"{drawn}\n{found}"


@pytest.mark.slow
@given(overrides())
@examples(100)
def test_more_configurations(apart, drawn):
    found = fault(apart(train, apart.folder, *drawn), drawn[1])
    assert not found, f"{drawn}\n{found}"


@given(overrides())
@examples(10)
def test_commands(apart, drawn):
    found = fault(apart(command, apart.folder, *drawn), drawn[1])
    assert not found, f"{drawn}\n{found}"
