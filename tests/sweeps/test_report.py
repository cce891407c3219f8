"""report.md of a sweep, read back; and `vae compare`, which writes it."""

import json
import re
import shlex
from dataclasses import asdict

import pytest

from tests.support.fake_sweeps import make_run, make_sweep
from vae.cli.main import main
from vae.runs.compose import compose
from vae.runs.run_dir import record_failure, run_lock
from vae.sweeps.comparison import read_sweep
from vae.sweeps.report import BEST_RUNS, overview, report_markdown, run_command, write_report
from vae.sweeps.results import read_record, write_record

BETAS = [{"loss.beta": beta} for beta in (1e-2, 1e-4, 1e-3)]


def make(tmp_path, runs=BETAS, **keywords):
    return make_sweep(tmp_path / "sweep", runs, **keywords)


def page(sweep, out=None):
    """The text of report.md, without the pictures' being made."""
    return report_markdown(read_sweep(sweep), out or sweep)


def shown(markdown):
    """Text as a reader sees it: each escaped sign is itself."""
    return re.sub(r"\\([\W_])", r"\1", markdown)


def table(text, title):
    """The rows of the table under a title, each a dict by the heads."""
    lines = text.partition(f"## {title}")[2].partition("\n## ")[0].splitlines()
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
        if line.startswith("|")
    ]
    heads, dashes, *rows = cells
    assert set(dashes) == {"---"}
    return [dict(zip(heads, row, strict=True)) for row in rows]


def links(text):
    return dict(re.findall(r"(?<!!)\[([^]]+)\]\(<([^>]+)>\)", text))


def test_the_table_has_all_runs_in_order(tmp_path):
    rows = table(page(make(tmp_path)), "All runs")
    assert [row["loss.beta"] for row in rows] == ["1e-04", "1e-03", "1e-02"]
    for row, run in zip(rows, read_sweep(tmp_path / "sweep").runs, strict=True):
        metrics = json.loads((run.folder / "summary.json").read_text())["final"]
        assert float(row["val/bpd"]) == pytest.approx(metrics["val/bpd"], abs=5e-4)
        assert float(row["val/psnr"]) == pytest.approx(metrics["val/psnr"], abs=5e-3)
        assert float(row["val/mse"]) == pytest.approx(metrics["val/mse"], abs=5e-6)
        assert float(row["beta_elbo"]) == pytest.approx(run.value("loss.beta") * 96, rel=1e-2)
        assert (row["step"], row["status"]) == ("1200", "finished")


def test_the_best_run_is_bold(tmp_path):
    for number, bpd in enumerate([6.3, 6.1, 6.2]):
        make_run(tmp_path / "sweep", {"seed": number}, metrics={"val/bpd": bpd})
    text = page(tmp_path / "sweep")
    assert re.findall(r"\*\*\[(.*?)\]", text) == ["seed=1", "seed=1"]  # in both tables
    best = table(text, "The best by `val/bpd`, lower is better")
    assert [row["val/bpd"] for row in best] == ["6.100", "6.200", "6.300"]
    starred = [
        line for line in overview(read_sweep(tmp_path / "sweep")).splitlines() if "*" in line
    ]
    assert [line.split()[-1] for line in starred] == ["6.100"]


def test_many_runs_list_the_best_first(tmp_path):
    runs = [{"loss.beta": 10**-power} for power in range(1, 9)]
    text = page(make(tmp_path, runs))
    best = [float(row["val/bpd"]) for row in table(text, "The best by")]
    everyone = [float(row["val/bpd"]) for row in table(text, "All runs")]
    assert best == sorted(everyone)[:BEST_RUNS]
    assert len(everyone) == 8


def test_several_objectives_show_the_pareto_front(tmp_path):
    for name, rate, psnr in (("0", 1.0, 10.0), ("1", 2.0, 20.0), ("2", 2.5, 15.0)):
        metrics = {"val/rate": rate, "val/psnr": psnr}
        make_run(tmp_path / "sweep", {"seed": name}, metrics=metrics)
    write_record(tmp_path / "sweep", {"objective": ["val/rate", "val/psnr"]})
    text = page(tmp_path / "sweep")
    front = table(text, "The 2 best trade-offs")
    assert [row["run"].split("]")[0] for row in front] == ["[seed=0", "[seed=1"]
    assert "`val/rate`, lower and `val/psnr`, higher" in text
    assert "**[" not in text  # none of them is the best


NASTY = "it said:\n| a | `b` | **c** |\n\n# no\n<b>[x](y)_z_ \\ end"


def test_each_run_that_failed_is_named_with_its_reason(tmp_path):
    sweep = make(tmp_path)
    record_failure(make_run(sweep, {"loss.beta": 1}, status=None), NASTY)
    make_run(sweep, {"loss.beta": 2}, status="failed", step=7)
    text = page(sweep)
    (section,) = text.split("## Runs that did not finish\n\n")[1:]
    first, second = section.splitlines()
    assert shown(first).endswith(": " + " ".join(NASTY.split()))
    assert "loss.beta=1" in first
    assert not re.search(r"(?<!\\)[|`<\[]", first)
    assert re.findall(r"(?<!\\)\*\*", first) == ["**", "**"]  # around the name
    assert "failed at step 7 of 1200: the reason is in its train.log" in shown(second)
    assert len(table(text, "All runs")) == 5


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("pruned", "pruned by Optuna at step 300 of 1200"),
        ("interrupted", "interrupted at step 300 of 1200; resumes when"),
        (None, "interrupted at step 1200; resumes when"),
    ],
)
def test_unfinished_runs_give_the_reason(status, words, tmp_path):
    make_run(make(tmp_path), {"loss.beta": 1}, status=status, step=300)
    text = page(tmp_path / "sweep")
    assert words in shown(text.split("## Runs that did not finish")[1])
    assert f"4 runs (3 finished, 1 {status or 'cut'})" in text


def test_running_runs_do_not_prevent_the_report(tmp_path, capsys):
    run = make_run(make(tmp_path), {"loss.beta": 1}, status=None)
    with run_lock(run):
        assert main(["compare", str(tmp_path / "sweep")]) == 0
    text = (tmp_path / "sweep" / "report.md").read_text()
    assert "is running, at step 1200" in text
    assert "1 running" in text
    assert table(text, "All runs")[-1]["status"] == "running"
    assert "running" in capsys.readouterr().out


def test_markdown_characters_are_escaped(tmp_path):
    values = ["a|b", "`c`", "d_e_f", "[g](h)", "<i>"]
    for number, value in enumerate(values):
        run = make_run(tmp_path / "sweep", {"data.path": value})
        run.rename(tmp_path / "sweep" / f"run_{number}")  # names of folders have no such signs
    rows = table(page(tmp_path / "sweep"), "All runs")
    assert sorted(shown(row["data.path"]) for row in rows) == sorted(values)


def test_the_page_describes_the_sweep(tmp_path):
    sweep = make(tmp_path)
    text = page(sweep)
    assert text.startswith("# sweep\n")
    assert f"```bash\n{read_record(sweep)['command']}\n```" in text
    assert "started 2026-11-22 18:39:07" in text


def test_a_sweep_without_record_has_a_report(tmp_path):
    sweep = make(tmp_path)
    (sweep / "sweep.json").unlink()
    text = page(sweep)
    assert text.startswith("# sweep\n")
    assert "3 runs (3 finished)." in text


def test_printed_commands_give_the_same_settings(tmp_path):
    """They are taken apart as a shell does, and composed as train.py does."""
    runs = [
        {"loss.beta": 1e-5, "model.channels": [4, 8, 16]},
        {"loss.beta": 0.25, "seed": 3, "optimizer": "adamw", "experiment": "debug"},
        {"data": "folder", "data.path": "'my photos; (old) $HOME'", "wandb.tags": "[a]"},
    ]
    text = page(make(tmp_path, runs))
    block = text.partition("These again, each by itself:")[2].split("```")[1]
    lines = block.removeprefix("bash\n").splitlines()
    assert len(lines) == 3
    found = []
    for line in lines:
        program, script, *arguments = shlex.split(line)
        assert (program, script) == ("python", "train.py")
        config = asdict(compose([*arguments, "sweep.name=alone"]))
        found.append({key: config[key] for key in ("seed", "model", "data", "optimizer", "loss")})
    for values in runs:
        given = [f"{key}={value}" for key, value in values.items()]
        config = asdict(compose([*given, "sweep.name=made"]))
        assert {key: config[key] for key in found[0]} in found


def test_printed_commands_omit_sweep_settings(tmp_path):
    values = {
        "loss.beta": 1, "sweep.name": "s", "sweep": "beta", "wandb.group": "g", "sweep.trial": 3,
        "hydra.sweeper.n_trials": 4, "hydra/launcher": "joblib", "+wandb.notes": "n",
    }  # fmt: skip
    make_run(tmp_path / "sweep", {"seed": 1})
    (tmp_path / "sweep" / "seed=1" / ".hydra" / "accepted.yaml").write_text(
        json.dumps([f"{key}={value}" for key, value in values.items()])
    )
    (run,) = read_sweep(tmp_path / "sweep").runs
    assert run_command(run) == "python train.py loss.beta=1"


@pytest.mark.parametrize("out", ["sweep", "elsewhere/deep", "."])
def test_links_are_relative_to_the_page(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = make(tmp_path)
    write_report("sweep", out)
    found = links((tmp_path / out / "report.md").read_text())
    assert len(found) == 3
    for name, target in found.items():
        assert (tmp_path / out / target).resolve() == sweep / shown(name)
    written = {"comparison.csv", "comparison.png", "report.md"}
    assert written <= {path.name for path in (tmp_path / out).iterdir()}
    if out != "sweep":
        assert not written & {path.name for path in sweep.iterdir()}


def test_json_is_one_object(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(make(tmp_path), {"loss.beta": 1}, status="failed", error=NASTY)
    assert main(["compare", "sweep", "--json", "--out", "there"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["sweep"] == "sweep"
    assert [run["loss.beta"] for run in found["runs"]] == [1e-4, 1e-3, 1e-2, 1]
    assert found["runs"][-1]["error"] == NASTY
    assert {*found["files"]} == {
        "there/comparison.csv", "there/comparison.png", "there/report.md"
    }  # fmt: skip
    assert all((tmp_path / file).is_file() for file in found["files"])


@pytest.mark.parametrize(("folder", "words"), [("nowhere", "no such folder"), (".", "no runs in")])
def test_a_folder_that_is_no_sweep_is_one_message(folder, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", folder]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []
