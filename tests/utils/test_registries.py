"""Registries are full wherever they are read, and take a class again but not another one."""

import subprocess
import sys

import pytest

from tests.support.train_command import ROOT
from tests.test_layout import MODULES
from vae.models.base import ModelConfig
from vae.utils.registry import (
    Metric,
    all_metrics,
    choices,
    find_metric,
    register,
    register_metric,
    run_metrics,
)

# Modules that name a registry, each imported anew, as a notebook does.
READERS = [
    name for name, path in MODULES.items() if "vae.utils.registry" in path.read_text("utf-8")
]


def test_the_metrics_are_known_in_every_process_that_reads_them():
    assert "vae.runs.tracking" in READERS
    program = f"""
import importlib, sys
for reader in {READERS}:
    for module in [name for name in sys.modules if name.split(".")[0] == "vae"]:
        del sys.modules[module]
    importlib.import_module(reader)
    from vae.utils.registry import all_metrics, find_metric
    assert sorted(all_metrics()) == {sorted(all_metrics())}, reader
    assert find_metric("best/val/ssim").higher_is_better, reader
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=300)


def test_the_metrics_of_a_run_are_in_the_documented_order():
    names = ["bpd", "rate", "distortion", "mse", "psnr", "ssim"]
    names += ["gradient_similarity", "sharpness", "active_units", "loss"]
    assert list(run_metrics())[: len(names)] == [f"val/{name}" for name in names]


def test_a_choice_may_be_registered_again_but_not_replaced():
    conv = choices("model")["conv"]
    assert register("model", "conv")(conv) is conv
    other = type("ConvConfig", (ModelConfig,), {})  # of the same name, in another module
    with pytest.raises(ValueError, match=r"model=conv is vae\.models\.conv\.ConvConfig already"):
        register("model", "conv")(other)
    assert choices("model")["conv"] is conv


def test_a_metric_may_be_registered_again_but_not_replaced():
    bpd = find_metric("val/bpd")
    register_metric(bpd)
    with pytest.raises(ValueError, match="a metric bpd already: bits per dimension"):
        register_metric(Metric("bpd", "beats per minute", digits=0))
    assert find_metric("val/bpd") is bpd


def test_values_are_ranked_and_formatted_by_their_metric():
    psnr, unknown = find_metric("best/val/psnr"), find_metric("perf/x")
    assert (psnr.cost(123.456), psnr.format(123.456)) == (-123.456, "123.46")
    assert (unknown.cost(123.456), unknown.format(123.456)) == (123.456, "123.5")
    assert (psnr.label, unknown.label) == ("PSNR, dB", "perf/x")
