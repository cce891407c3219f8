"""`vae report` on real tiny runs and on the shipped pages."""

import csv
import json
import re
import shutil

import pytest
from PIL import Image

from tests.support.fake_sweeps import make_run, make_sweep
from tests.support.quick_evaluation import draw_few_faces
from tests.support.sweep_processes import run_sweep
from tests.support.train_command import ROOT
from vae.cli.main import main
from vae.sweeps.pages import BLOCK, fill_page, results_file
from vae.sweeps.pages.tables import read_results

SHIPPED = [*sorted((ROOT / "docs" / "experiments").glob("exp_*.md")), ROOT / "README.md"]
PAGE = """# A page

<!-- set up -->
<!-- end -->

What is written by hand stays.

<!-- table loss.beta | beta_elbo val/rate val/psnr -->
old
<!-- end -->

<!-- pictures comparison curves:loss.beta:val/rate,val/psnr:seed -->
<!-- end -->
"""


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "docs" / "page.md"
    path.parent.mkdir()
    path.write_text(PAGE, encoding="utf-8")
    return path


@pytest.fixture
def sweep(tmp_path):
    runs = [{"loss.beta": beta, "seed": seed} for beta in (1e-4, 1e-3) for seed in (0, 1)]
    return make_sweep(tmp_path / "multirun" / "s", runs)


def test_a_page_is_filled_from_runs_and_stored_results(page, sweep):
    make_run(sweep, {"loss.beta": 1.0, "seed": 0}, status="failed")
    assert main(["report", str(page), str(sweep)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "What is written by hand stays." in text
    assert "old" not in text
    assert "4 runs, 16 minutes of training in all" in text  # not the one that failed
    ended = [json.loads((run / "summary.json").read_text()) for run in sweep.glob("*=0.001*")]
    rates = [summary["final"]["val/rate"] for summary in ended]
    assert f"{sum(rates) / 2:.1f} ±" in text
    for name in ("comparison", "curves_loss.beta"):
        assert f"(figures/page/{name}.png)" in text
        assert Image.open(page.parent / "figures" / "page" / f"{name}.png").width > 300
    with open(page.parent / "results" / "page.csv", newline="") as file:
        kept = list(csv.DictReader(file))
    assert len(kept) == 4
    assert "folder" not in kept[0]  # nothing of this machine
    assert str(sweep) not in results_file(page).read_text()

    page.write_text(re.sub(r"\d\.\d", "9.9", text), encoding="utf-8")
    shutil.rmtree(sweep)
    assert main(["report", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == text


def test_missing_metrics_are_evaluated(page, tmp_path, monkeypatch):
    arguments = ["data.preset=core", "data.num_images=400", "sweep.name=s", "seed=0,1"]
    assert run_sweep(arguments, tmp_path)[0] == 0
    draw_few_faces(monkeypatch)
    page.write_text(
        "<!-- table seed | val/bpd val/mig -->\n<!-- end -->\n"
        "<!-- pictures samples reconstructions:chosen:val/bpd:data.preset "
        "traversal:best:val/mig -->\n<!-- end -->\n"
    )
    sweep = tmp_path / "multirun" / "s"
    assert main(["report", str(page), str(sweep)]) == 0
    for row in read_results(results_file(page)):
        (run,) = sweep.glob(f"seed={row['seed']}")
        measured = json.loads((run / "metrics.json").read_text())["metrics"]["val/mig"]["value"]
        assert float(row["val/mig"]) == pytest.approx(measured, rel=1e-5)
    stamps = [path.stat().st_mtime_ns for path in sorted(sweep.glob("*/metrics.json"))]
    assert main(["report", str(page), str(sweep)]) == 0  # and not twice
    assert [path.stat().st_mtime_ns for path in sorted(sweep.glob("*/metrics.json"))] == stamps
    figures = {path.name for path in (page.parent / "figures" / "page").iterdir()}
    assert figures == {"samples.png", "reconstructions_chosen.png", "traversal_best.png"}
    first = next(sweep.glob("*/metrics.json"))
    first.write_text(first.read_text().replace('"checkpoint": "last"', '"checkpoint": "best"'))
    assert main(["report", str(page), str(sweep)]) == 0  # those of another checkpoint do not count
    assert json.loads(first.read_text())["checkpoint"] == "last"


def test_only_the_choice_is_measured_on_the_test_split(page, sweep, monkeypatch):
    measured = []

    def evaluate(run, keys):
        measured.append(run.name)
        assert [*keys] == ["test/psnr"]
        return {"test/psnr": 20.0 + run.value("seed")}

    monkeypatch.setattr("vae.sweeps.pages.evaluation_metrics", evaluate)
    page.write_text("<!-- chosen by val/bpd | loss.beta test/psnr -->\n<!-- end -->\n")
    assert main(["report", str(page), str(sweep)]) == 0
    rows = read_results(results_file(page))
    means = {
        beta: sum(float(row["val/bpd"]) for row in rows if row["loss.beta"] == beta)
        for beta in ("0.0001", "0.001")
    }
    best = min(means, key=means.get)
    assert sorted(measured) == [f"loss.beta={best},seed=0", f"loss.beta={best},seed=1"]
    assert f"| {best} | 20.50 ± 0.71 |" in page.read_text()
    page.write_text("<!-- paired loss.beta=0.001:loss.beta=0.0001 | test/psnr -->\n<!-- end -->\n")
    assert main(["report", str(page), str(sweep)]) == 0
    assert len(set(measured)) == 4
    assert "| 2 | 0.00 (0.00 to 0.00) |" in page.read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- table loss.beta | val/nothing -->\n<!-- end -->", "val/nothing"),
        ("<!-- table loss.bteta | val/rate -->\n<!-- end -->", "loss.bteta"),
        ("<!-- table loss.beta -->\n<!-- end -->", "table loss.beta"),
        ("<!-- chosen loss.beta val/bpd | val/bpd -->\n<!-- end -->", "it takes KEYS by METRIC"),
        ("<!-- paired loss.beta=0.1 | val/bpd -->\n<!-- end -->", "malformed block"),
        ("<!-- within seed | val/rate -->\n<!-- end -->", "it takes KEYS | A:B"),
        ("<!-- pictures traversal:nicest:val/bpd -->\n<!-- end -->", "traversal:nicest"),
        ("<!-- pictures edits:best:val/bpd -->\n<!-- end -->", "/figures/val/edits.png"),
        ("<!-- table seed | val/rate | other.csv -->\n<!-- end -->", "other.csv"),
    ],
)
def test_a_mistake_in_a_page_is_named(text, said, page, sweep, capsys):
    page.write_text(text)
    assert main(["report", str(page), str(sweep)]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.md"], r"nowhere\.md: there is no such page\."),
        (["PAGE", "nowhere"], r"nowhere: there is no such folder\. .*multirun/SWEEP\."),
        (["PAGE"], r".*page\.csv: there are no results\. .*multirun/NAME.*"),
    ],
)
def test_missing_runs_are_reported(arguments, words, page, capsys):
    assert main(["report", *(a.replace("PAGE", str(page)) for a in arguments)]) == 1
    assert re.fullmatch(f"error: {words}\n", capsys.readouterr().err)


@pytest.mark.parametrize("page", SHIPPED, ids=lambda p: p.stem)
def test_shipped_pages_match_their_results(page):
    assert fill_page(page) == page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", SHIPPED[:-1], ids=lambda p: p.stem)
def test_numbers_in_the_text_are_in_the_tables(page):
    """A number with a point, in a sentence, is one of the page's tables."""
    text = page.read_text(encoding="utf-8")
    tables = "\n".join(body for *_, body, _ in BLOCK.findall(text))
    handwritten = re.sub(r"```.*?```|`[^`]*`", "", BLOCK.sub("", text), flags=re.S)  # no code
    said = set(re.findall(r"(?<![\d.])\d+\.\d+", handwritten))
    assert said - set(re.findall(r"\d+\.\d+", tables)) == set()


def test_each_metric_is_measured_without_other_parts(finished, monkeypatch):
    """What a page asks for decides what is measured: every part's figures, and no others."""
    from tests.evaluation.test_evaluate import stand_in
    from vae.evaluation import PARTS, PRIORS
    from vae.evaluation.evaluate import evaluate_model
    from vae.runs.load import load_run
    from vae.sweeps.pages.tables import required_settings

    monkeypatch.setattr("vae.evaluation.evaluate.pick_features", lambda *_: (stand_in(), []))
    monkeypatch.setattr("vae.evaluation.flow.LAYERS", 2)

    def measure(overrides):
        report, _ = evaluate_model(load_run(finished, overrides=overrides))
        assert report.notes == []
        return {*report.figures}

    found = {}
    for part in ["", *PARTS]:
        for key in measure([f"metrics.parts=[{part}]", f"metrics.priors=[{','.join(PRIORS)}]"]):
            found.setdefault(key, part)
    for key, part in found.items():
        settings = required_settings([key])
        assert settings[0] == f"metrics.parts=[{part}]"
        if key.startswith("val/prior_error_") and key != "val/prior_error_ceiling":
            assert settings[1] == f"metrics.priors=[{key.rpartition('_')[2]}]"
    assert measure(required_settings(["val/prior_error_flow"])) - {
        key for key, part in found.items() if not part
    } == {"val/prior_error_flow", "val/prior_error_ceiling"}
