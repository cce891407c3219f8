"""The tab Edit, in a browser."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.web_page import move, pixels, source, wait_for_change
from vae.cli.main import main as vae
from vae.evaluation.attributes import learn_directions
from vae.runs.load import load_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(app_run):
    return load_run(app_run)


@pytest.fixture
def photograph(trained, tmp_path):
    """A validation face without glasses as a file, enlarged."""
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


def test_reset_shows_the_reconstruction(visit):
    page = visit()
    plain = source(page, "#after")
    move(page, "#attribute-Black_Hair", 1)
    changed = wait_for_change(page, "#after", plain)
    page.click("#reset")
    assert wait_for_change(page, "#after", changed) == source(page, "#reconstruction")
    assert page.input_value("#attribute-Black_Hair input[type=number]") == "0"
