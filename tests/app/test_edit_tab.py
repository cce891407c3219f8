"""The tab Edit, in a browser."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.web_page import move, pixels, source, wait_for_change, wait_for_text
from vae.app.models import REFINE_STEPS, open_models
from vae.cli.main import main as vae
from vae.evaluation.attributes import learn_directions
from vae.generation.edit import edit
from vae.runs.load import load_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(app_run):
    return load_run(app_run)


@pytest.fixture
def photograph(trained, tmp_path):
    """A validation face without black hair as a file, enlarged."""
    labels = trained.data.attributes("val")
    row = int(np.argmin(labels.values[:, labels.names.index("Black_Hair")]))
    file = tmp_path / "me.png"
    Image.fromarray(np.array(trained.data.images["val"][row])).resize((160, 160)).save(file)
    return file


def upload(page, file):
    before = source(page, "#before")
    page.set_input_files("#photograph input[type=file]", file)
    return wait_for_change(page, "#before", before)


def score(trained, image, attribute):
    """How much of an attribute the model's own classifier sees in a picture."""
    learned = learn_directions(trained, trained.directions_file)
    picture = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        latents = trained.model.encode(picture).mode
    return learned.directions.scores(latents)[0, learned.directions.names.index(attribute)].item()


def test_a_photograph_is_edited_as_vae_edit_does(visit, trained, photograph, tmp_path, app_run):
    page = visit()
    upload(page, photograph)
    assert page.inner_text("#found")
    plain = source(page, "#after")
    move(page, "#attribute-Black_Hair", 1.5)
    more = wait_for_change(page, "#after", plain)
    move(page, "#attribute-Black_Hair", -1.5)
    less = wait_for_change(page, "#after", more)
    scores = [score(trained, pixels(url), "Black_Hair") for url in (less, plain, more)]
    assert scores == sorted(scores)
    assert scores[0] < scores[2]

    move(page, "#attribute-Black_Hair", 1.5)
    wait_for_change(page, "#after", less)
    with page.expect_download() as download:
        page.click("#after [aria-label=Download]")
    download.value.save_as(tmp_path / "downloaded.png")
    arguments = ["--attribute", "Black_Hair", "--strength", "1.5", "--out", str(tmp_path)]
    assert vae(["edit", str(app_run), str(photograph), *arguments]) == 0
    (written,) = (tmp_path / "edited").iterdir()
    with Image.open(written) as expected, Image.open(tmp_path / "downloaded.png") as found:
        difference = np.asarray(found.convert("RGB")).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("keep_detail", [False, True])
@pytest.mark.parametrize("unbounded", [False, True])
@pytest.mark.parametrize("refined", [0, REFINE_STEPS])
def test_the_options_are_those_of_vae_edit(app_run, tmp_path, keep_detail, unbounded, refined):
    (model,) = open_models(app_run, "last", [], torch.device("cpu")).models
    face = model.validation_face(3)
    face = model.refine(face) if refined else face
    expected = {}
    for attribute in ("Black_Hair", "Eyeglasses"):
        result = edit(
            model.run,
            model.learned,
            ["3"],
            [attribute],
            3.0,
            keep_detail=keep_detail,
            unbounded=unbounded,
            refine=refined,
            folder=tmp_path,
        )
        found, applied = model.edit(face, {attribute: 3.0}, keep_detail, unbounded)
        assert torch.allclose(found, result.images[0, -1], atol=1e-4)
        assert applied[attribute] == pytest.approx(result.applied["3"][attribute])
        assert (applied[attribute] < 3) != unbounded
        expected[attribute] = applied[attribute]
    both, applied = model.edit(face, dict.fromkeys(expected, 3.0), False, unbounded)
    assert applied == pytest.approx(expected)
    normal = model.learned.directions.normal
    rows = [model.learned.directions.names.index(name) for name in expected]
    step = torch.tensor([*expected.values()], dtype=torch.float64) @ normal[rows]
    assert torch.allclose(both, model.decode((face.latents + step).float()[None])[0], atol=1e-4)


def test_limits_refining_and_a_square_by_hand(visit, photograph):
    page = visit()
    upload(page, photograph)
    plain = source(page, "#after")
    move(page, "#attribute-Black_Hair", 3)
    limited = wait_for_change(page, "#after", plain)
    wait_for_text(page, "#limits", "Black Hair +3.00 is limited to")
    page.check("#unbounded input")
    wait_for_change(page, "#after", limited)
    page.wait_for_function("() => document.querySelector('#limits').innerText == ''")
    before = psnr_on(page)
    shown = source(page, "#reconstruction")
    page.click("#refine")
    wait_for_change(page, "#reconstruction", shown)
    assert psnr_on(page) > before

    framed = source(page, "#before")
    page.click("#by-hand button")
    for name, value in (("left", 10), ("top", 20), ("side", 100)):
        page.fill(f"#square-{name} input", str(value))
    page.click("#crop")
    wait_for_change(page, "#before", framed)
    with Image.open(photograph) as image:
        expected = image.crop((10, 20, 110, 120)).resize((32, 32), Image.Resampling.BILINEAR)
    difference = pixels(source(page, "#before")).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1
    page.fill("#square-left input", "5000")
    page.click("#crop")
    page.locator("text=The square lies outside of the photograph").wait_for()


def psnr_on(page):
    original, found = (
        pixels(source(page, f"#{name}")) / 255 for name in ("before", "reconstruction")
    )
    return -10 * np.log10(np.square(original - found).mean())


def test_reset_shows_the_reconstruction(visit):
    page = visit()
    plain = source(page, "#after")
    move(page, "#attribute-Black_Hair", 1)
    changed = wait_for_change(page, "#after", plain)
    page.click("#reset")
    assert wait_for_change(page, "#after", changed) == source(page, "#reconstruction")
    assert page.input_value("#attribute-Black_Hair input[type=number]") == "0"
