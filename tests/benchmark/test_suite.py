"""A whole benchmark with tiny settings: its record and its tables."""

import json
import math
from dataclasses import replace

import pytest
import torch

from vae.benchmark import growth, suite
from vae.benchmark.cases import (
    prepare_evaluation,
    prepare_layers,
    prepare_matrix,
    upsampling_layers,
)
from vae.benchmark.steps import (
    BF16,
    COMPILED,
    DEFAULT,
    VARIANTS,
    Setting,
    build_variant,
    image_flops,
)
from vae.benchmark.suite import format_benchmark
from vae.benchmark.timing import Sample
from vae.cli.main import main
from vae.models.layers import FORMS, UpsampleConv, fastest_form

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


@pytest.fixture
def small_growth(monkeypatch):
    """Two cases, really measured."""
    pair = {"4 images": TINY, "8 images": replace(TINY, batch=8)}
    monkeypatch.setattr(growth, "growth_settings", lambda _setting: {"batch": pair})


def test_the_record_of_a_real_run(small_growth, in_process, kept_memory, monkeypatch, capsys):
    sizes = {}

    def tiny(**options):
        sizes.update(options)
        return TINY

    monkeypatch.setattr("vae.benchmark.steps.Setting", tiny)
    arguments = ["--rounds", "2", "--threads", "1", "--growth", "--device", "cpu", "--json"]
    assert main(["benchmark", *arguments, "--batch", "5", "--image-size", "32", "--seed", "3"]) == 0
    wanted = {"batch": 5, "image_size": 32, "device": "cpu", "threads": 1, "seed": 3}
    assert sizes == wanted | {"matrix_side": 2048}
    out = capsys.readouterr().out
    found = json.loads(out)  # one object and nothing else
    assert out.count("\n") == 1

    assert found["setting"]["batch"] == 4
    assert found["rounds"] == 2
    assert found["machine"]["threads"] == 1
    assert found["machine"]["torch"] == torch.__version__
    assert found["flops_per_image"] == image_flops(TINY)
    assert [row["variant"] for row in found["training"]] == [v.name for v in VARIANTS]
    layers = [(row["layer"], row["form"]) for row in found["layers"]]
    names = ["8 to 8 at 4 px", "8 to 3 at 8 px"]
    assert layers == [(name, form) for name in names for form in FORMS]
    chosen = [row["form"] for row in found["layers"] if row["chosen"]]
    assert chosen == [fastest_form("cpu", 2, 4, 8), fastest_form("cpu", 2, 8, 3)]
    assert [row["precision"] for row in found["matrix"]] == ["fp32", "bf16"]
    assert [row["loading"] for row in found["data"]] == ["packed", "0 workers", "2 workers"]
    figures = [row["images_per_second"] for row in (*found["training"], *found["data"])]
    figures += [row["milliseconds"] for row in found["layers"]]
    figures += [row["gflops_per_second"] for row in found["matrix"]]
    figures += [found["evaluation"]["images_per_second"]]
    figures += [row["images_per_second"] for row in found["growth"]["batch"]]
    for figure in figures:
        assert len(figure["values"]) == len(figure["others"]) == 2
        assert 0 < figure["low"] <= figure["median"] <= figure["high"] < math.inf
    assert found["training"][0]["ratio"] == 1
    assert found["evaluation"]["ratio_to_training"] > 0
    parts = ["layers", "matrix", "data", "evaluation"]
    assert in_process == [
        ([*(variant.name for variant in VARIANTS), *parts], 1),
        (["4 images"], 1),
        (["8 images"], 1),
    ]
    assert set(kept_memory) == {"steps", "cases", "growth"}
    small, large = found["growth"]["batch"]
    assert large["flops_per_image"] == small["flops_per_image"] == image_flops(TINY)
    assert small["time_growth"] is None
    speeds = [row["images_per_second"]["median"] for row in (small, large)]
    assert large["time_growth"] == pytest.approx(speeds[0] / speeds[1])

    text = format_benchmark(found)
    for words in (
        "8 to 3 at 8 px, subpixel *",
        "JPEG files, 2 workers",
        "2 of 2",
        "against plain",
    ):
        assert words in text
    assert "growth with batch" in text
    assert "growth" not in format_benchmark(found | {"growth": None})


def rounds(*values):
    return [Sample(value, 0.0) for value in values]


def test_figures_are_relative_to_their_reference(monkeypatch):
    monkeypatch.setattr("vae.utils.devices.computes_in_bf16", lambda _: False)
    series = {
        "training/plain": rounds(100.0, 50.0, 100.0),
        f"training/{DEFAULT.name}": rounds(250.0, 125.0, 200.0),
        f"training/{COMPILED.name}": rounds(300.0, 300.0, 300.0),
        f"training/{BF16.name}": rounds(500.0, 500.0, 500.0),
        "compile_seconds": rounds(9.0, 8.0, 7.0),
        "matrix/fp32": rounds(50.0, 25.0, 80.0),
        "matrix/bf16": rounds(100.0, 100.0, 100.0),
        "data/packed": rounds(5000.0, 5000.0, 5000.0),
        "data/0 workers": rounds(1000.0, 1000.0, 1000.0),
        "data/2 workers": rounds(2000.0, 2000.0, 2000.0),
    }
    default = suite.training_row(series, DEFAULT, 10**8, "cpu")  # 0.1 GFLOP an image
    assert default["ratio"] == 2.5
    assert default["share_of_peak"] == pytest.approx(250 * 0.1 / 50)
    assert default["compile_seconds"] is None
    bf16 = suite.training_row(series, BF16, 10**8, "cpu")
    assert bf16["share_of_peak"] == pytest.approx(500 * 0.1 / 100)
    assert suite.training_row(series, COMPILED, 10**8, "cpu")["compile_seconds"] == 9.0
    monkeypatch.setattr("vae.utils.devices.computes_in_bf16", lambda _: True)
    default = suite.training_row(series, DEFAULT, 10**8, "cpu")
    assert default["precision"] == "bf16"
    assert default["share_of_peak"] == pytest.approx(200 * 0.1 / 100)
    packed, alone, two = suite.data_rows(series)
    assert (packed["ratio"], alone["ratio"], two["ratio"]) == (5.0, 1.0, 2.0)
    assert packed["share_of_step"] == 200 / 5000
    assert alone["share_of_step"] == 200 / 1000


def test_half_the_time_is_a_ratio_of_two():
    small = replace(TINY, image_size=8)  # the first layer's images are of 2 pixels
    names = upsampling_layers(small)
    series = {f"layers/{name}/plain": rounds(4.0) for name in names}
    series |= {f"layers/{name}/transposed": rounds(2.0) for name in names}
    series |= {f"layers/{name}/subpixel": rounds(1.0) for name in names}
    found = list(suite.layer_rows(series, small))
    assert [(row["layer"], row["form"], row["ratio"], row["chosen"]) for row in found] == [
        ("8 to 8 at 2 px", "plain", 1.0, fastest_form("cpu", 4, 2, 8) == "plain"),
        ("8 to 8 at 2 px", "transposed", 2.0, fastest_form("cpu", 4, 2, 8) == "transposed"),
        ("8 to 8 at 2 px", "subpixel", 4.0, fastest_form("cpu", 4, 2, 8) == "subpixel"),
        ("8 to 3 at 4 px", "plain", 1.0, fastest_form("cpu", 4, 4, 3) == "plain"),
        ("8 to 3 at 4 px", "transposed", 2.0, fastest_form("cpu", 4, 4, 3) == "transposed"),
        ("8 to 3 at 4 px", "subpixel", 4.0, fastest_form("cpu", 4, 4, 3) == "subpixel"),
    ]


def test_compilation_is_measured_on_request(in_process, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiled.append(model) or model)
    found = suite.run_benchmark(TINY, 1, compiled=True)
    assert [row["variant"] for row in found["training"]][-1:] == [COMPILED.name]
    assert len(compiled) == 1
    assert isinstance(found["training"][-1]["compile_seconds"], float)
    assert "compiling" in format_benchmark(found)
    assert found["growth"] is None


@pytest.mark.parametrize(("has_it", "bytes_a_value"), [(False, 4), (True, 2)])
def test_evaluation_is_in_the_default_runs_precision(
    has_it, bytes_a_value, kept_memory, monkeypatch
):
    sizes = set()

    def remember(*arguments):
        model = build_variant(*arguments)
        hook = lambda _layer, _inputs, output: sizes.add(output.element_size())  # noqa: E731
        model.encoder.blocks[0].register_forward_hook(hook)
        return model

    monkeypatch.setattr("vae.utils.devices.computes_in_bf16", lambda _: has_it)
    monkeypatch.setattr("vae.benchmark.cases.build_variant", remember)
    assert list(prepare_evaluation(TINY)()) == ["evaluation"]
    assert sizes == {bytes_a_value}


def test_layers_are_timed_in_each_form(kept_memory, monkeypatch):
    used = []
    shapes = []

    class FakeTimer:
        def __init__(self, work, _device, _seconds):
            self.work = work

        def __call__(self):
            self.work()
            return 0.25

    forward = UpsampleConv.forward

    def spied(layer, x):
        used.append(layer.form)
        shapes.append(tuple(x.shape))
        return forward(layer, x)

    monkeypatch.setattr("vae.benchmark.cases.Timer", FakeTimer)
    monkeypatch.setattr(UpsampleConv, "forward", spied)
    found = prepare_layers(TINY)()
    assert set(found.values()) == {250.0}
    assert [name.rpartition("/")[2] for name in found] == used == 2 * list(FORMS)
    assert shapes == len(FORMS) * [(4, 8, 4, 4)] + len(FORMS) * [(4, 8, 8, 8)]


def test_a_multiply_add_is_two_operations(monkeypatch):
    monkeypatch.setattr("vae.benchmark.cases.Timer", lambda *_: lambda: 1e-3)
    wanted = 2 * 64**3 / 1e-3 / 1e9
    assert prepare_matrix(TINY)() == pytest.approx({"matrix/fp32": wanted, "matrix/bf16": wanted})


def test_growth_is_relative_to_the_previous_row():
    rows = [
        {"batch": batch, "images_per_second": {"median": rate}, "peak_bytes": peak, **flops}
        for batch, rate, peak, flops in (
            (4, 8.0, 10.0, {"flops_per_image": 25}),
            (4, 2.0, 30.0, {"flops_per_image": 50}),
            (8, 2.0, 30.0, {"flops_per_image": 50}),
        )
    ]
    found = list(growth._with_growth(rows))
    # a step of 0.5 s, then 2 s for twice the work, then 4 s for twice that
    assert [row["time_growth"] for row in found] == [None, 2.0, 1.0]
    assert [row["memory_growth"] for row in found] == [None, 1.5, 0.5]


def test_each_axis_changes_one_setting():
    found = growth.growth_settings(Setting())
    assert list(found) == ["image size", "batch", "latents", "widths"]
    assert [case.image_size for case in found["image size"].values()] == [32, 64, 128, 256]
    assert [case.batch for case in found["batch"].values()] == [8, 16, 32, 64, 128]
    assert [case.latent_dim for case in found["latents"].values()] == [8, 32, 128, 512]
    halved, same, doubled = found["widths"].values()
    assert halved.channels == (16, 32, 64, 128)
    assert same == Setting()
    assert doubled.channels == (64, 128, 256, 512)
    assert all(
        case.batch == 32 for axis in ("image size", "latents") for case in found[axis].values()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", "0"], "--rounds: got 0"),
        (["--batch", "0"], "--batch: got 0"),
        (["--image-size", "40"], "--image-size: got 40, but it takes a multiple of 16"),
        (["--image-size", "0"], "--image-size: got 0"),
        (["--threads", "0"], "--threads: got 0"),
        (["--seed", "-1"], "--seed: got -1"),
        (["--device", "tpu"], "got 'tpu'"),
    ],
)
def test_mistakes_are_one_message(arguments, words, capsys):
    assert main(["benchmark", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
