"""Edits against redrawn faces, by models and probes that know the factors of what they see."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.quick_evaluation import draw_few_faces
from tests.support.train_command import TINY, call_train
from vae.cli.main import main
from vae.data.synthetic import SyntheticConfig
from vae.data.synthetic.faces import (
    ATTRIBUTE_FACTORS,
    FACTOR_NAMES,
    FACTORS,
    PRESETS,
    attributes,
    draw,
    sample_factors,
)
from vae.evaluation import counterfactual, probe
from vae.evaluation.counterfactual import EditBenchmark
from vae.evaluation.probe import FactorProbe, factor_probe, train_probe

SIZE = 16
ROWS = torch.from_numpy(sample_factors("core", 40, 3))
SPREAD = torch.from_numpy(sample_factors("core", 2000, 4)).std(0).clamp(min=1e-6)
LEVELS = {"Smiling": (-0.4, 0.6), "Eyeglasses": (0.0, 1.0), "Pale_Skin": (0.6, 0.1)}
CORE = [FACTOR_NAMES.index(name) for name in PRESETS["core"]]


@pytest.fixture
def seen(monkeypatch):
    """The factors of every picture that was drawn, by its bytes."""
    known: dict[bytes, Tensor] = {}

    def remember(rows: Tensor, size: int) -> Tensor:
        pictures = draw(rows, size)
        for picture, row in zip(pictures, rows, strict=True):
            picture[:, 0, 0] += 1e-7 * len(known)  # at this size two faces may look the same
            known[picture.numpy().tobytes()] = row
        return pictures

    monkeypatch.setattr(counterfactual, "draw", remember)
    return known, remember


class Oracle(nn.Module):
    """A model whose latents are the factors, and whose decoder draws them."""

    def __init__(self, seen):
        super().__init__()
        self.known, self.draw = seen
        self.nothing = nn.Parameter(torch.zeros(1))

    def encode(self, images):
        return SimpleNamespace(mode=torch.stack([self.known[i.numpy().tobytes()] for i in images]))

    def decode(self, latents):
        return self.draw(latents, SIZE)


class Deaf(Oracle):
    """Decodes the same face from whatever latents."""

    def decode(self, latents):
        return self.draw(ROWS[:1].expand(len(latents), -1), SIZE)


class Reader(nn.Module):
    """Reads the factors of `core` in standard deviations, without an error."""

    def __init__(self, known):
        super().__init__()
        self.known = known

    def forward(self, images):
        rows = torch.stack([self.known[i.numpy().tobytes()] for i in images])
        return (rows / SPREAD)[:, CORE]


@dataclass
class Along:
    """Directions among the factors: those that decide the attributes, mixed with others."""

    mixed: dict[str, float]  # in standard deviations per standard deviation of the factor

    names = (*LEVELS,)

    def way(self, attribute: str, _: str) -> Tensor:
        column = FACTOR_NAMES.index(ATTRIBUTE_FACTORS[attribute])
        low, high = LEVELS[attribute]
        step = torch.zeros(len(FACTORS))
        step[column] = high - low
        for name, share in self.mixed.items():
            other = FACTOR_NAMES.index(name)
            step[other] += share * (high - low) / SPREAD[column] * SPREAD[other]
        return step


def scores_of(seen, model, mixed=None, network=None, **accuracy):
    accuracies = {**dict.fromkeys(PRESETS["core"], 1.0), **accuracy}
    reader = FactorProbe(network or Reader(seen[0]), SIZE, accuracies)
    benchmark = EditBenchmark(model, reader, Along(mixed or {}), ROWS, SIZE, methods=("normal",))
    return {name: benchmark.score(name, *ends) for name, ends in LEVELS.items()}


def test_a_model_of_the_factors_edits_without_fault(seen):
    scores = scores_of(seen, Oracle(seen))
    assert scores.keys() == LEVELS.keys()
    for score in scores.values():
        for change in score.changes.values():
            assert change.effect == pytest.approx(1, abs=1e-4)
            assert change.leakage < 1e-3
            assert max(map(abs, change.leaks.values())) < 1e-4
        assert score.likeness["normal"].psnr > 80
        assert score.likeness["normal"].psnr > score.likeness["unedited"].psnr + 5


def test_a_model_that_ignores_its_latents_changes_nothing(seen):
    for score in scores_of(seen, Deaf(seen)).values():
        assert score.changes["normal"].effect == 0
        assert score.changes["normal"].leakage == 0
        assert score.likeness["normal"].psnr == pytest.approx(score.likeness["unedited"].psnr)


@pytest.mark.parametrize("share", [0.3, -0.5])
def test_a_mixed_direction_leaks_the_share_of_the_mixture(seen, share):
    """Each factor in its standard deviations, whether the face gains or loses the attribute."""
    for score in scores_of(seen, Oracle(seen), {"yaw": share, "bg_val": 0.1}).values():
        change = score.changes["normal"]
        assert change.effect == pytest.approx(1, abs=1e-4)
        assert change.leaks["yaw"] == pytest.approx(share, abs=1e-3)
        assert change.leaks["bg_val"] == pytest.approx(0.1, abs=1e-3)
        assert change.leakage == pytest.approx(math.hypot(share, 0.1), rel=2e-3)
        rest = [leak for name, leak in change.leaks.items() if name not in ("yaw", "bg_val")]
        assert max(map(abs, rest)) < 1e-4


def test_what_changes_in_the_redrawn_faces_is_no_leak(seen):
    """A probe that takes glasses for a wide face does so in the truth, too."""

    class Confused(Reader):
        def forward(self, images):
            found = super().forward(images)
            glasses, width = (PRESETS["core"].index(name) for name in ("glasses", "face_w"))
            found[:, width] += 0.5 * found[:, glasses]
            return found

    change = scores_of(seen, Oracle(seen), network=Confused(seen[0]))["Eyeglasses"].changes
    assert abs(change["normal"].leaks["face_w"]) < 1e-4


def test_factors_that_the_probe_reads_poorly_do_not_count(seen):
    scores = scores_of(seen, Oracle(seen), {"yaw": 0.3, "bg_val": 0.1}, smile=0.49, yaw=0.49)
    assert scores.pop("Smiling") is None
    for score in scores.values():
        change = score.changes["normal"]
        assert not {"smile", "yaw"} & change.leaks.keys()
        assert change.leakage == pytest.approx(0.1, rel=2e-2)


def test_each_attribute_follows_from_its_factor_alone():
    rows = torch.from_numpy(sample_factors("rich", 3000, 1))
    others = torch.from_numpy(sample_factors("rich", 3000, 2))
    names, before = attributes(rows)
    for attribute, factor in ATTRIBUTE_FACTORS.items():
        mixed = others.clone()
        column = FACTOR_NAMES.index(factor)
        mixed[:, column] = rows[:, column]
        place = names.index(attribute)
        assert torch.equal(attributes(mixed)[1][:, place], before[:, place]), attribute
        assert 0 < before[:, place].float().mean() < 1


@pytest.fixture
def quick_probe(monkeypatch):
    draw_few_faces(monkeypatch)


def test_a_probe_reads_faces_that_it_has_not_seen(quick_probe):
    found = train_probe("core", SIZE, torch.device("cpu"))
    rows = torch.from_numpy(sample_factors("core", 300, 9))
    read = found.read(draw(rows, SIZE)).numpy()
    for column, name in enumerate(PRESETS["core"]):
        correlation = np.corrcoef(read[:, column], rows[:, FACTOR_NAMES.index(name)])[0, 1]
        assert abs(correlation**2 - found.accuracy[name]) < 0.25, name
    assert found.accuracy["bg_val"] > 0.7


def test_a_probe_is_kept_with_the_caches(quick_probe, tmp_path, monkeypatch, caplog):
    config = SyntheticConfig(
        name="synthetic",
        root=str(tmp_path),
        image_size=SIZE,
        batch_size=4,
        num_images=20,
        flip=False,
        num_workers=1,
        preset="core",
        seed=0,
    )
    cpu = torch.device("cpu")
    first = factor_probe(config, cpu)
    images = torch.rand(4, 3, SIZE, SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(probe, "train_probe", None)
        again = factor_probe(config, cpu)
    assert torch.equal(again.read(images), first.read(images))
    assert again.accuracy == first.accuracy
    (file,) = (tmp_path / "probes").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert torch.equal(factor_probe(config, cpu).read(images), first.read(images))  # made again
    assert "damaged" in caplog.text


@pytest.mark.parametrize("sigma", [0.6, 1.5])
def test_blur_spreads_a_point_by_its_variance(sigma):
    images = torch.zeros(1, 3, 31, 31)
    images[:, :, 15, 15] = 1
    soft = probe.blur(images, sigma)[0, 0].double()
    places = torch.arange(31.0) - 15
    assert soft.sum().item() == pytest.approx(1, abs=1e-5)
    for variance in ((soft.sum(0) * places**2).sum(), (soft.sum(1) * places**2).sum()):
        assert variance.item() == pytest.approx(sigma**2, rel=0.25)  # cut at two deviations


def test_evaluation_reports_edits_and_later_commands_show_them(finished, quick_probe, capsys):
    settings = ["metrics.parts=[counterfactual]", "metrics.counterfactual_images=30"]
    assert main(["evaluate", "run", *settings, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    record = json.loads((finished / "metrics.json").read_text())["edits"]["val"]
    assert (record["n"], record["split"]) == (30, "val")
    for kind in ("", "_means", "_conditional", "_redrawn"):
        method = kind[1:] or "normal"
        for key in ("effect", "leakage"):
            values = [score["changes"][method][key] for score in record["value"].values()]
            assert found[f"val/edit_{key}{kind}"]["value"] == pytest.approx(np.mean(values))
    beside = [
        record["value"][name]["changes"]["means"]["leaks"][partner]
        for one, other in (("smile", "mouth_open"), ("skin", "hair_dark"), ("glasses", "beard"))
        for factor, partner in ((one, other), (other, one))
        for name, score in record["value"].items()
        if score["factor"] == factor and partner in score["changes"]["means"]["leaks"]
    ]
    assert found["val/edit_confounding_means"]["value"] == pytest.approx(np.mean(beside))
    from PIL import Image

    with Image.open(finished / "figures" / "val" / "edits.png") as picture:
        assert picture.height > 90 * len(record["value"])  # a row of faces for each attribute
    for key in ("psnr", "ssim"):
        assert {f"val/edit_{key}{kind}" for kind in ("", "_redrawn", "_unedited")} <= found.keys()

    assert main(["edit", "run", "--list"]) == 0
    out = capsys.readouterr().out
    (name, score), *_ = record["value"].items()
    change = score["changes"]["normal"]
    row = next(line for line in out.splitlines() if line.endswith(f" {name}")).split()
    shown = [f"{change[key]:.2f}".replace("-0.00", "0.00") for key in ("effect", "leakage")]
    assert row[-3:] == [*shown, name]
    assert "effect and leakage of edits (normal)" in out
    (finished / "metrics.json").unlink()
    assert main(["edit", "run", "--list"]) == 0
    assert "leakage" not in capsys.readouterr().out


def test_photographs_cannot_be_drawn_anew(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["data=folder", f"data.path={pictures}", "hydra.run.dir=run"]
    assert call_train([*TINY, *settings], tmp_path, monkeypatch, capsys)[0] == 0
    assert main(["evaluate", "run", "metrics.parts=[counterfactual]", "--json"]) == 0
    notes = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]["val"]
    assert any("need drawn faces" in note for note in notes)
