"""Time to quality: the recipes equal those of train.py."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

from tests.support.run_files import rows
from tests.support.train_command import TINY, call_train
from vae.benchmark import quality
from vae.benchmark.quality import (
    Recipe,
    measure_quality,
    prepare_recipe,
    quality_rows,
    training_recipes,
)
from vae.benchmark.steps import FAST, OPTIMIZERS, PLAIN, Setting
from vae.runs.compose import compose

# What TINY trains, in eight steps.
SMALL = Setting(image_size=16, channels=(4, 8), latent_dim=4, threads=1, seed=3)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The smallest run in place of the default one, in two parts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quality, "compose", lambda _: compose(TINY))
    monkeypatch.setattr(quality, "TURNS", 2)


@pytest.mark.usefixtures("tiny")
def test_the_last_recipe_is_the_default_run(tmp_path, monkeypatch, capsys):
    recipe = training_recipes("cpu")[-1]
    assert recipe.run == 8
    arguments = [*TINY, "seed=3", "loss.beta=1e-4", "hydra.run.dir=run"]
    call_train(arguments, tmp_path, monkeypatch, capsys)
    wanted = [row["val/psnr"] for row in rows(tmp_path / "run") if "val/psnr" in row]
    measure = prepare_recipe(SMALL, replace(recipe, steps=recipe.run))
    found = [measure()[f"{recipe.name}/psnr"] for _ in range(2)]
    assert found[-1] == pytest.approx(wanted[-1], abs=1e-4)
    assert len(set(found)) == 2


@pytest.mark.parametrize(("has_it", "precision"), [(False, "fp32"), (True, "bf16")])
def test_recipes_add_one_change_at_a_time(has_it, precision, monkeypatch):
    monkeypatch.setattr("vae.utils.devices.computes_in_bf16", lambda _: has_it)
    faces = SimpleNamespace(images={"train": range(9600)})
    monkeypatch.setattr(quality, "open_data", lambda _: faces)  # nothing is drawn
    recipes = training_recipes("cpu")

    def parts(each):
        constant = replace(each.optimizer, schedule="constant")
        return each.variant, constant, each.batch, each.optimizer.schedule

    for before, after in pairwise(recipes):
        same = [a == b for a, b in zip(parts(before), parts(after), strict=True)]
        assert same.count(False) == 1, (before.name, after.name)
    assert [recipe.variant for recipe in recipes[:2]] == [PLAIN, FAST]
    assert recipes[-1].run == 1200
    assert recipes[-1].variant.precision == precision
    assert len(recipes) == 5 + has_it


def test_the_first_part_at_the_plain_psnr_counts(monkeypatch):
    monkeypatch.setattr(quality, "TURNS", 4)
    adam = OPTIMIZERS["adam"]
    recipes = [Recipe(name, PLAIN, adam, 64, 100) for name in ("plain", "quick", "never")]
    series = {
        "plain/psnr": [10.0, 23.0, 21.0, 22.0],
        "plain/seconds": [5.0, 5.0, 5.0, 5.0],
        "quick/psnr": [21.9, 22.0, 21.0, 25.0],
        "quick/seconds": [1.0, 3.0, 9.0, 9.0],
        "never/psnr": [1.0, 2.0, 3.0, 4.0],
        "never/seconds": [1.0, 1.0, 1.0, 1.0],
    }
    plain, quick, never = quality_rows(recipes, series, seed=0)
    assert (quick["target"], quick["steps"], quick["seconds"], quick["ratio"]) == (22, 50, 4, 5)
    assert (plain["steps"], plain["seconds"], plain["ratio"]) == (50, 10, 2)
    assert (never["steps"], never["seconds"], never["ratio"]) == (None, None, None)


@pytest.mark.usefixtures("tiny")
def test_every_recipe_runs_for_each_seed(in_process, monkeypatch):
    plain, fast = (replace(recipe, batch=8, steps=8) for recipe in training_recipes("cpu")[:2])
    monkeypatch.setattr(quality, "training_recipes", lambda _: [plain, fast])
    found = measure_quality(SMALL, 2)
    assert [(row["seed"], row["means"]) for row in found] == [
        (seed, recipe.name) for seed in (3, 4) for recipe in (plain, fast)
    ]
    assert found[0]["target"] != found[2]["target"]
    # a faster step has the same curve
    assert found[0]["psnr_by_turn"] == pytest.approx(found[1]["psnr_by_turn"], abs=1e-3)
    assert in_process == 2 * [([plain.name, fast.name], 1, 2)]
