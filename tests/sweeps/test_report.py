"""report.md of a sweep, read back; and `vae compare`, which writes it."""

import contextlib
import json
import math
import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from tests.support.fake_sweeps import make_run, make_sweep
from tests.utils.test_text import HOSTILE, parsed
from vae.cli.main import main
from vae.runs.compose import compose
from vae.runs.run_dir import record_failure, run_lock
from vae.sweeps.comparison import read_sweep
from vae.sweeps.report import BEST_RUNS, overview, report_markdown, write_report
from vae.utils.tables import read_csv

BETAS = [{"loss.beta": beta} for beta in (1e-2, 1e-4, 1e-3)]


def make(tmp_path, runs=BETAS, objective=("val/bpd",)):
    return make_sweep(tmp_path / "sweep", runs, objective)


def page(sweep):
    """The text of report.md, without the pictures' being made."""
    return report_markdown(read_sweep(sweep), sweep)


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


def test_the_table_has_all_runs_in_order(tmp_path):
    rows = table(page(make(tmp_path)), "All runs")
    assert [row["loss.beta"] for row in rows] == ["1e-04", "1e-03", "1e-02"]
    for row, run in zip(rows, read_sweep(tmp_path / "sweep").runs, strict=True):
        metrics = json.loads((run.folder / "summary.json").read_text())["final"]
        for key, digits in (("val/bpd", 3), ("val/psnr", 2), ("val/mse", 5)):
            assert row[key] == f"{metrics[key]:.{digits}f}"
        assert float(row["beta_elbo"]) == pytest.approx(run.value("loss.beta") * 96, rel=1e-2)
        assert (row["step"], row["status"]) == ("1200", "finished")


def test_the_best_run_is_bold_and_the_best_are_listed_first(tmp_path):
    sweep = make(tmp_path, [{"loss.beta": 10**-power} for power in range(1, 9)], ["val/psnr"])
    comparison, text = read_sweep(sweep), page(sweep)
    values = sorted((f"{run.metrics['val/psnr']:.2f}", run.name) for run in comparison.runs)
    best = table(text, "The best by `val/psnr`, higher is better")
    assert [row["val/psnr"] for row in best] == [psnr for psnr, _ in values[: -BEST_RUNS - 1 : -1]]
    assert len(table(text, "All runs")) == 8
    assert re.findall(r"\*\*\[(.*?)\]", text) == [values[-1][1]] * 2  # in both tables
    (starred,) = [line for line in overview(comparison).splitlines() if "*" in line]
    assert values[-1][0] in starred


def test_several_objectives_show_the_pareto_front(tmp_path):
    for seed, (rate, psnr) in enumerate([(1.0, 10.0), (2.0, 20.0), (2.5, 15.0)]):
        make_run(tmp_path / "sweep", {"seed": seed}, metrics={"val/rate": rate, "val/psnr": psnr})
    (tmp_path / "sweep/sweep.json").write_text('{"objective": ["val/rate", "val/psnr"]}')
    text = page(tmp_path / "sweep")
    front = table(text, "The 2 best trade-offs")
    assert [row["run"].split("]")[0] for row in front] == ["[seed=0", "[seed=1"]
    assert "`val/rate`, lower and `val/psnr`, higher" in text
    assert "**[" not in text  # none of them is the best


def test_any_objective_has_a_column(tmp_path):
    sweep = make(tmp_path, [{"seed": 1}, {"seed": 2}], ["val/ssim"])
    ssim = [f"{run.metrics['val/ssim']:.3f}" for run in read_sweep(sweep).runs]
    assert [row["val/ssim"] for row in table(page(sweep), "All runs")] == ssim
    shown_lines = overview(read_sweep(sweep)).splitlines()
    assert "ssim" in shown_lines[0]
    assert all(value in line for value, line in zip(ssim, shown_lines[1:3], strict=True))


NASTY = "it said:\n| a | `b` | **c** |\n\n# no\n<b>[x](y)_z_ \\ end"


def test_each_unfinished_run_is_named_with_its_reason(tmp_path):
    sweep = make(tmp_path)
    record_failure(make_run(sweep, {"loss.beta": 1}, status=None), NASTY)
    for beta, status in enumerate(("failed", "pruned", "interrupted", None), start=2):
        make_run(sweep, {"loss.beta": beta}, status=status, step=300)
    with run_lock(make_run(sweep, {"loss.beta": 6}, status=None)):
        text = page(sweep)
    assert "9 runs (3 finished, 2 failed, 1 pruned, 1 interrupted, 1 cut, 1 running)" in text
    assert [row["status"] for row in table(text, "All runs")][-2:] == ["cut", "running"]
    (section,) = text.split("## Runs that did not finish\n\n")[1:]
    nasty, *others = section.splitlines()
    assert shown(nasty).endswith(": " + " ".join(NASTY.split()))
    assert not re.search(r"(?<!\\)[|`<\[]", nasty)
    assert re.findall(r"(?<!\\)\*\*", nasty) == ["**", "**"]  # around the name
    again = "resumes when the sweep is started again"
    assert [shown(line) for line in others] == [
        "- **loss.beta=2** failed at step 300 of 1200: the reason is in its train.log",
        "- **loss.beta=3** stopped early by the search at step 300 of 1200",
        f"- **loss.beta=4** interrupted at step 300 of 1200; {again}",
        f"- **loss.beta=5** interrupted at step 1200; {again}",
        "- **loss.beta=6** is running, at step 1200",
    ]


def test_one_run_is_in_the_singular(tmp_path):
    assert "1 run (1 finished)" in page(make(tmp_path, BETAS[:1]))


def test_untrusted_text_is_shown_literally(tmp_path, capsys):
    """In report.md, comparison.csv, the charts and the terminal."""
    sweep = tmp_path / "sweep"
    texts = [*HOSTILE, "```\n# h", "javascript:alert(1)", "$", "<!-- end -->"]
    for number, (text, other, key) in enumerate(zip(*[iter(texts)] * 3, strict=False)):
        metrics = {"val/bpd": 1.0, "val/rate": 2.0, "val/$x$": 1.0}
        run = make_run(sweep, {"seed": number}, error=text, metrics=metrics)
        values = [f"data.path={text}", f"{key}={other}", f"{other}={text}"]
        (run / ".hydra" / "accepted.yaml").write_text(json.dumps(values))
        summary = json.loads((run / "summary.json").read_text())
        status = ("finished", other, "failed")[number % 3]
        (run / "summary.json").write_text(json.dumps(summary | {"status": status}))
        with contextlib.suppress(OSError):  # a file system may refuse the name
            run.rename(sweep / f"r{text}".replace("/", "").replace("\0", ""))
    record = {"name": "<b>*n*\x1b", "command": "python train.py -m x=```\n# no"}
    for objective in (["val/bpd", "val/$x$"], ["val/$x$"]):
        (sweep / "sweep.json").write_text(json.dumps(record | {"objective": objective}))
        text = page(sweep)
        assert text.replace("\n", "").isprintable()
        kinds, _ = parsed(text)
        assert not {"html_block", "html_inline", "em_open", "image"} & set(kinds)
        assert kinds.count("heading_open") == text.count("\n## ") + 1 == 4
        assert not re.search(r"\]\(<[^>]*:", text)  # a link of no other scheme
    assert main(["compare", str(sweep)]) == 0
    shown = capsys.readouterr()
    assert (shown.out + shown.err).replace("\n", "").isprintable()
    assert (sweep / "comparison.png").exists()
    assert len(read_csv(sweep / "comparison.csv")) == len(read_sweep(sweep).runs)


ODD = [None, True, 10**400, "x" * 10_000, [], [1, [{"a": 3}]], {"a": {}}, "nan"]


def test_values_of_any_kind_are_no_traceback(tmp_path):
    sweep = tmp_path / "sweep"
    for number, odd in enumerate(ODD):
        run = make_run(sweep, {"seed": number})
        keys = ["status", "error", "step", "total_steps", "seconds", "final", "best", "machine"]
        if number % 2:
            (run / "summary.json").write_text(json.dumps(dict.fromkeys(keys, odd)))
        config = yaml.safe_load((run / ".hydra" / "config.yaml").read_text())
        changed = {"loss": odd, "wandb": odd} if number % 3 else {"objective": odd, "model": odd}
        changed |= {"seed": odd, "data": config["data"] | {"image_size": odd, "num_images": odd}}
        (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config | changed))
    (run / "metrics.jsonl").write_text("[" * 100_000 + "\n" + '{"step": [1], "val/bpd": {}}\n')
    page = tmp_path / "page.md"
    page.write_text("<!-- set up -->\n<!-- end -->\n<!-- table seed | val/bpd -->\n<!-- end -->\n")
    for odd in ODD:
        record = {"name": odd, "command": odd, "started": odd, "objective": odd}
        (sweep / "sweep.json").write_text(json.dumps(record))
        assert report_markdown(read_sweep(sweep), sweep)
    assert main(["dashboard", str(sweep), "--json", "--project", "p"]) == 0
    (sweep / "sweep.json").write_text('{"objective": "val/bpd"}')
    assert main(["report", str(page), str(sweep)]) == 0


def test_a_failed_chart_does_not_prevent_the_report(tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("vae.sweeps.report.draw_charts", fail)
    monkeypatch.setattr("vae.sweeps.report.draw_face_sheets", fail)
    sweep = make(tmp_path)
    write_report(sweep)
    text = (sweep / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# sweep\n\n3 runs (3 finished), started 2026-11-22 18:39:07.\n")
    assert f"```bash\n{json.loads((sweep / 'sweep.json').read_text())['command']}\n```" in text
    for what in ("charts", "faces"):
        assert f"No new {what}: ZeroDivisionError: by zero" in text
    (sweep / "sweep.json").unlink()
    assert page(sweep).startswith("# sweep\n\n3 runs (3 finished).\n")


def settings(overrides):
    config = asdict(compose([*overrides, "sweep.name=s"]))
    return {key: config[key] for key in ("seed", "model", "data", "optimizer", "loss")}


def test_printed_commands_give_the_same_settings(tmp_path):
    """They are taken apart as a shell does, and composed as train.py does."""
    runs = [
        {"loss.beta": 1e-5, "model.channels": [4, 8, 16]},
        {"loss.beta": 0.25, "seed": 3, "optimizer": "adamw", "experiment": "debug"},
        {"data": "folder", "data.path": "'my photos; (old) $HOME'"},
    ]
    of_the_sweep = ["sweep=beta", "sweep.trial=3", "wandb.group=g", "wandb.tags=[a]"]
    of_the_sweep += ["hydra.sweeper.n_trials=4", "hydra/launcher=joblib", "+wandb.notes=n"]
    of_the_sweep += ["wandb.mode=online", "wandb.mode=offline"]
    sweep = make(tmp_path, runs)
    for accepted in sweep.glob("*/.hydra/accepted.yaml"):
        accepted.write_text(json.dumps([*yaml.safe_load(accepted.read_text()), *of_the_sweep]))
    block = page(sweep).partition("These again, each by itself:")[2].split("```")[1]
    commands = [shlex.split(line) for line in block.removeprefix("bash\n").splitlines()]
    assert [command[:2] for command in commands] == [["python", "train.py"]] * 3
    for command in commands:
        assert "wandb.mode=offline" in command  # nor is it uploaded
        apart = [
            word for word in command if word.lstrip("+").startswith(("sweep", "hydra", "wandb"))
        ]
        assert apart == ["wandb.mode=offline"]
    found = [settings(command[2:]) for command in commands]
    for values in runs:
        assert settings(f"{key}={value}" for key, value in values.items()) in found


@pytest.mark.parametrize("out", ["sweep", "elsewhere/deep", "."])
def test_files_are_written_where_asked(out, tmp_path, monkeypatch, capsys):
    """And named on stdout, in one JSON object; links are relative to the page."""
    monkeypatch.chdir(tmp_path)
    sweep = make(tmp_path)
    make_run(sweep, {"loss.beta": 1, "trainer.grad_clip": math.inf}, "failed", error=NASTY)
    before = {path.name for path in sweep.iterdir()}
    assert main(["compare", "sweep", "--json", *(["--out", out] if out != "sweep" else [])]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["sweep"] == "sweep"
    assert [run["loss.beta"] for run in found["runs"]] == [1e-4, 1e-3, 1e-2, 1]
    assert found["runs"][-1]["error"] == NASTY
    assert found["runs"][-1]["trainer.grad_clip"] == "inf"  # JSON has no infinity
    names = ("comparison.csv", "comparison.png", "report.md")
    assert found["files"] == [str(Path(out, name)) for name in names]
    assert all(Path(file).is_file() for file in found["files"])
    assert out == "sweep" or {path.name for path in sweep.iterdir()} == before
    text = (tmp_path / out / "report.md").read_text()
    assert "No new faces: no run has a checkpoint yet" in text
    assert [path.name for path in tmp_path.rglob("*.png")] == ["comparison.png"]
    linked = dict(re.findall(r"(?<!!)\[([^]]+)\]\(<([^>]+)>\)", text))
    assert len(linked) == 4
    for name, target in linked.items():
        assert (tmp_path / out / target).resolve() == sweep / shown(name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no such folder"),
        (["."], "no runs in"),
        (["s/seed=1"], "this is one run"),
        (["s", "--out", "s/seed=1/metrics.jsonl/out"], "metrics.jsonl/out: Not a directory"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_message(
    arguments, words, tmp_path, monkeypatch, capsys
):
    make_run(tmp_path / "s", {"seed": 1})
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert main(["compare", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert captured.out == ""
    assert set(tmp_path.rglob("*")) == before
