"""The tab Sweep, and the slider that chooses a run for all tabs, in a browser."""

import shutil

import numpy as np
import pytest
import torch

from tests.app.conftest import BETAS, serving, visiting
from tests.support.web_page import (
    caption_figure,
    move,
    open_tab,
    pixels,
    source,
    wait_for_change,
    wait_for_text,
)
from vae.runs.load import load_run
from vae.sweeps.results import RECORD_FILE
from vae.utils.files import read_json, write_json

pytestmark = pytest.mark.slow

FACE = 7  # of the validation split
RUNS = len(BETAS)


@pytest.fixture(scope="module")
def trained(app_sweep):
    """The runs by β, the least first."""
    return [load_run(app_sweep / f"loss.beta={beta}") for beta in BETAS]


@pytest.fixture
def page(browser, sweep_url):
    with visiting(browser, sweep_url) as opened:
        yield opened


def take(page, number):
    """Take a face of the validation split in the tab Edit."""
    before = source(page, "#before")
    page.fill("#number input", str(number))
    page.click("#take")
    wait_for_change(page, "#before", before)


def reconstruct(run, number):
    """A validation face and its reconstruction, (size, size, 3) in [0, 1] each."""
    face = torch.from_numpy(np.array(run.data.images["val"][number])) / 255
    with torch.inference_mode():
        latents = run.model.encode(face.permute(2, 0, 1)[None]).mode
        made = run.model.decode(latents)[0].permute(1, 2, 0)
    return face.numpy(), made.numpy()


def assert_shows(url, expected):
    assert np.abs(pixels(url) - 255 * expected).max() <= 1


def test_each_run_reconstructs_the_face_of_the_page(page, trained):
    take(page, FACE)
    open_tab(page, "Sweep")
    page.wait_for_selector(f"#sweep-face-{RUNS} img")
    for number, run in enumerate(trained, start=1):
        face, made = reconstruct(run, FACE)
        assert_shows(source(page, "#sweep-original"), face)
        assert_shows(source(page, f"#sweep-face-{number}"), made)
        label = page.inner_text(f"#sweep-choose-{number}").removeprefix("✓ ")
        assert float(label.removeprefix("β ")) == float(BETAS[number - 1])
        caption = page.inner_text(f"#sweep-caption-{number}")
        psnr = -10 * np.log10(np.square(face - made).mean())
        assert caption_figure(caption, "dB") == pytest.approx(psnr, abs=0.006)
        for unit, key, digits in (("nats", "val/rate", 1), ("bpd", "val/bpd", 3)):
            assert caption_figure(caption, unit) == round(run.metrics[key], digits)
    assert not page.query_selector(f"#sweep-face-{RUNS + 1}")

    open_tab(page, "Edit")
    take(page, 1)
    before = source(page, "#sweep-original")
    open_tab(page, "Sweep")
    assert_shows(wait_for_change(page, "#sweep-original", before), reconstruct(trained[0], 1)[0])


def test_the_slider_of_runs_chooses_for_all_tabs(page, trained):
    take(page, FACE)
    for number in (RUNS, 2):
        before = source(page, "#reconstruction")
        move(page, "#run", number)
        shown = wait_for_change(page, "#reconstruction", before)
        assert_shows(shown, reconstruct(trained[number - 1], FACE)[1])
    open_tab(page, "Run")
    wait_for_text(page, "#run-headline", f"loss.beta={BETAS[1]}")
    move(page, "#run", RUNS)
    wait_for_text(page, "#run-headline", f"loss.beta={BETAS[-1]}")
    wait_for_text(page, "#run", f"Run {RUNS} of {RUNS}")


@pytest.mark.parametrize("part", ["face", "choose"])
def test_a_click_on_a_picture_or_its_button_chooses_its_run(page, trained, part):
    open_tab(page, "Sweep")
    wait_for_text(page, "#sweep-choose-1", "✓")
    chart, edited = source(page, "#sweep-chart"), source(page, "#reconstruction")
    page.click(f"#sweep-{part}-{RUNS}{' img' * (part == 'face')}")
    wait_for_text(page, "#run", f"Run {RUNS} of {RUNS}")
    wait_for_change(page, "#sweep-chart", chart)
    wait_for_text(page, f"#sweep-choose-{RUNS}", "✓")
    assert "✓" not in page.inner_text("#sweep-choose-1")
    label = page.inner_text(f"#sweep-choose-{RUNS}").removeprefix("✓ ")
    words = page.get_attribute("#sweep-chart img", "alt")
    assert f"The chosen run is {label}." in words
    best = min(trained, key=lambda run: run.metrics["val/bpd"])
    assert f"The least bpd, {best.metrics['val/bpd']:.3f}" in words

    shown = wait_for_change(page, "#reconstruction", edited)
    assert_shows(shown, reconstruct(trained[-1], 0)[1])


def test_the_edit_of_the_sliders_goes_through_every_run(page):
    before = source(page, "#after")
    move(page, "#attribute-Black_Hair", 1.5)
    edited = wait_for_change(page, "#after", before)
    open_tab(page, "Sweep")
    page.wait_for_selector("#sweep-face-1 img")
    plain = [source(page, f"#sweep-face-{number}") for number in range(1, RUNS + 1)]
    assert plain[0] == source(page, "#reconstruction")
    page.check("#sweep-edited input")
    for number, url in enumerate(plain, start=1):
        wait_for_change(page, f"#sweep-face-{number}", url)
    assert source(page, "#sweep-face-1") == edited


def test_runs_are_compared_by_their_encoders_for_a_refined_face_too(page, trained):
    """The latents of a refined face fit its own run alone."""
    take(page, FACE)
    shown = source(page, "#reconstruction")
    page.click("#refine")
    wait_for_change(page, "#reconstruction", shown)
    open_tab(page, "Sweep")
    page.wait_for_selector(f"#sweep-face-{RUNS} img")
    for number, run in enumerate(trained, start=1):
        assert_shows(source(page, f"#sweep-face-{number}"), reconstruct(run, FACE)[1])


def test_runs_that_break_a_constraint_are_named(browser, app_sweep, trained, tmp_path):
    sweep = shutil.copytree(app_sweep, tmp_path / "bounded")
    rates = [run.metrics["val/rate"] for run in trained]
    bound = (rates[0] + rates[1]) / 2  # less β, more rate: the first run breaks it
    record = read_json(sweep / RECORD_FILE)
    search = {"constraint": f"val/rate <= {bound!r}"}
    write_json(sweep / RECORD_FILE, {**record, "search": search})
    with serving(sweep) as (url, _), visiting(browser, url) as page:
        open_tab(page, "Sweep")
        wait_for_text(page, "#sweep-table", f"{RUNS - 1} of {RUNS} points keep it")
        text = page.inner_text("#sweep-table")
    (named,) = [line for line in text.splitlines() if " breaks val/rate <= " in line]
    assert named.startswith("β 1e-04 ")
    assert named.endswith(f" by {rates[0] - bound:.3g}.")
