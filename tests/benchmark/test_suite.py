"""A whole benchmark with tiny settings: its record and its tables."""

import json
from dataclasses import replace

import pytest
import torch

from vae.benchmark import cases, suite
from vae.benchmark.cases import upsampling_layers
from vae.benchmark.steps import BF16, COMPILED, DEFAULT, VARIANTS, Setting, image_flops
from vae.benchmark.suite import format_benchmark, format_number
from vae.benchmark.timing import summarize
from vae.cli.main import main
from vae.models.layers import FORMS, fastest_form

TINY = Setting(
    batch=4,
    image_size=16,
    channels=(8, 8),
    latent_dim=4,
    threads=1,
    pictures=9,
    matrix_side=64,
    seconds=0.001,
)


def test_the_options_are_taken(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(suite, "run_benchmark", lambda *given: asked.append(given) or {"rounds": 2})
    arguments = "--rounds 2 --threads 1 --growth --quality 3 --device cpu --json"
    arguments += " --batch 5 --image-size 32 --seed 3"
    assert main(["benchmark", *arguments.split()]) == 0
    setting = Setting(batch=5, image_size=32, device="cpu", threads=1, seed=3, matrix_side=2048)
    assert asked == [(setting, 2, False, True, 3)]
    assert capsys.readouterr().out == '{"rounds": 2}\n'  # one object and nothing else


def test_the_record_of_a_real_run(in_process, kept_memory, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiled.append(model) or model)
    pair = {f"{batch} images": replace(TINY, batch=batch) for batch in (4, 8)}
    monkeypatch.setattr(cases, "growth_settings", lambda _setting: {"batch": pair})
    found = suite.run_benchmark(TINY, 2, compiled=True, growth=True)
    assert json.loads(json.dumps(found))["setting"]["channels"] == [8, 8]

    assert found["rounds"] == 2
    assert found["machine"]["threads"] == 1
    assert found["machine"]["torch"] == torch.__version__
    assert found["flops_per_image"] == image_flops(TINY)
    assert found["quality"] is None
    variants = [variant.name for variant in (*VARIANTS, COMPILED)]
    assert [row["variant"] for row in found["training"]] == variants
    assert [row["compile_seconds"] is None for row in found["training"]] == [True] * 6 + [False]
    assert len(compiled) == 1
    assert [row["precision"] for row in found["matrix"]] == ["fp32", "bf16"]
    assert [row["loading"] for row in found["data"]] == ["packed", "0 workers", "2 workers"]
    rows = [*found["training"], *found["layers"], *found["matrix"], *found["data"]]
    rows += [found["evaluation"], *found["growth"]["batch"]]
    figures = [value for row in rows for value in row.values() if isinstance(value, dict)]
    assert [len(figure["values"]) for figure in figures] == [2] * len(rows)
    assert found["training"][0]["ratio"] == 1
    assert found["evaluation"]["ratio_to_training"] > 0
    assert in_process == [
        ([*variants, "layers", "matrix", "data", "evaluation"], 1, 2),
        (["4 images"], 1, 2),
        (["8 images"], 1, 2),
    ]
    assert len(kept_memory) == 4 + 3 + 2  # variants, all other measurements but products, growth
    small, large = found["growth"]["batch"]
    assert (small["batch"], large["batch"]) == (4, 8)
    assert large["flops_per_image"] == small["flops_per_image"] == image_flops(TINY)
    speeds = [row["images_per_second"]["median"] for row in (small, large)]
    assert large["time_growth"] == pytest.approx(speeds[0] / speeds[1])

    text = format_benchmark(found)
    for words in ("8 to 3 at 8 px  subpixel", "2 workers", "growth with batch", "8 images"):
        assert words in text
    assert "growth" not in format_benchmark(found | {"growth": None})


def test_a_table_has_a_column_per_key():
    rows = [
        {
            "layer": "8 to 3",
            "form": form,
            "images_per_second": summarize([rate, 12.34, 99.96]),
            "share_of_peak": 0.1264,
            "seconds": seconds,
            "steps": 1000,
            "chosen": seconds is None,
            "psnr_by_turn": [1.0],
        }
        for form, rate, seconds in (("plain", 0.126, None), ("subpixel", 1234.5, 2.0))
    ]
    assert suite._table(rows).splitlines() == [
        "  layer   form                 images/s  share of peak  seconds  steps  chosen",
        "  8 to 3  plain     12.3 (6.23 to 56.1)          12.6%            1000       *",
        "  8 to 3  subpixel  100.0 (56.1 to 667)          12.6%     2.00   1000",
    ]
    assert format_number(1234.5) == "1,234"


def test_figures_are_relative_to_their_reference(monkeypatch):
    series = {
        "training/plain": [100.0, 50.0, 100.0],
        f"training/{DEFAULT.name}": [250.0, 125.0, 200.0],
        f"training/{COMPILED.name}": [300.0, 300.0, 300.0],
        f"training/{BF16.name}": [500.0, 500.0, 500.0],
        "compile_seconds": [9.0, 8.0, 7.0],
        "matrix/fp32": [50.0, 25.0, 80.0],
        "matrix/bf16": [100.0, 100.0, 100.0],
        "data/packed": [5000.0, 5000.0, 5000.0],
        "data/0 workers": [1000.0, 1000.0, 1000.0],
        "data/2 workers": [2000.0, 2000.0, 2000.0],
    }
    for has_bf16, variant, share in (
        (False, DEFAULT, 250 * 0.1 / 50),
        (True, DEFAULT, 200 * 0.1 / 100),
        (False, BF16, 500 * 0.1 / 100),
    ):
        monkeypatch.setattr("vae.utils.devices.computes_in_bf16", lambda _, has=has_bf16: has)
        row = suite.training_row(series, variant, 10**8, "cpu")  # 0.1 GFLOP an image
        assert row["share_of_peak"] == pytest.approx(share)
        assert row["ratio"] == {DEFAULT: 2.5, BF16: 5.0}[variant]
        assert row["compile_seconds"] is None
    assert suite.training_row(series, COMPILED, 10**8, "cpu")["compile_seconds"] == 9.0
    assert [(row["ratio"], row["share_of_step"]) for row in suite.data_rows(series)] == [
        (5.0, 200 / 5000),
        (1.0, 200 / 1000),
        (2.0, 200 / 2000),
    ]


def test_layers_are_relative_to_their_plain_form():
    small = replace(TINY, image_size=8)  # the first layer's images are of 2 pixels
    times = {"plain": 4.0, "transposed": 2.0, "subpixel": 1.0}
    names = upsampling_layers(small)
    series = {f"layers/{name}/{form}": [times[form]] for name in names for form in FORMS}
    found = list(suite.layer_rows(series, small))
    assert [(row["layer"], row["form"], row["ratio"], row["chosen"]) for row in found] == [
        (f"8 to {channels} at {side} px", form, 4.0 / times[form], form == chosen)
        for channels, side in ((8, 2), (3, 4))
        for chosen in [fastest_form("cpu", 4, side, channels)]
        for form in FORMS
    ]


def test_each_axis_changes_one_setting():
    keys = {"image size": "image_size", "batch": "batch"}
    keys |= {"latents": "latent_dim", "widths": "channels"}
    setting = Setting(channels=(8, 16))
    found = cases.growth_settings(setting)
    assert list(found) == list(keys)
    for axis, key in keys.items():
        settings = list(found[axis].values())
        sizes = [getattr(each, key) for each in settings]
        assert settings == [replace(setting, **{key: size}) for size in sizes]
        assert setting in settings
        assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image-size", "40"], "--image-size: got 40, but it takes a multiple of 16"),
        (["--device", "tpu"], "got 'tpu'"),
    ],
)
def test_mistakes_are_one_message(arguments, words, capsys):
    assert main(["benchmark", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
