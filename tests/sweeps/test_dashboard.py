"""`vae dashboard`: every key in a workspace or report is one that W&B has of the sweep's runs."""

import json
import re
import shutil
import sys

import pytest
from markdown_it import MarkdownIt

from tests.support.fake_sweeps import grid_of, make_run, make_sweep
from tests.support.train_command import TINY, run_train
from tests.support.wandb_files import read_runs
from tests.support.wandb_server import WandbServer
from vae.cli.main import main
from vae.sweeps.wandb_views import FACES

pytest.importorskip("wandb_workspaces", reason="the extra `dashboard` is not installed")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning"),
    pytest.mark.usefixtures("fresh_wandb"),
]

GROUP = "it's β=1"  # not easy to quote
ODD = """it's "β"=1 |a` *b* <c> 😀"""  # nor is this to show literally in Markdown
VIEWS = [[], ["--report"]]


class ViewServer(WandbServer):
    """Takes workspaces and reports, too."""

    def __init__(self):
        super().__init__()
        self.views = []
        self.projects = []  # that were made

    def _query(self, name, given):
        if name == "GetDefaultEntity":
            return {"viewer": {"id": "1", "entity": self.entity}}
        if name == "GetProjects":
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"models": {"pageInfo": page, "edges": []}}
        if name == "CreateProject":
            self.projects.append(given["input"]["name"])
            return {"result": None}
        if name in ("UpsertView2", "upsertView"):
            self.views.append(given)
            view = {"id": "6", "name": given["name"]}
            return {"upsertView": {"view": view, "inserted": True}}
        return super()._query(name, given)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep of two runs, and its summary, offline."""
    folder = tmp_path_factory.mktemp("sweep")
    arguments = [o for o in TINY if not o.startswith("wandb.")] + ["wandb.mode=offline"]
    swept = ["loss.beta=1e-5,1e-4", f'wandb.group="{GROUP}"', "hydra.sweep.dir=sweep"]
    done = run_train(["-m", *arguments, *swept], folder, WANDB_ERROR_REPORTING="false")
    assert done.returncode == 0, done.stderr
    return folder / "sweep"


def printed(capsys, *arguments):
    """The view that `vae dashboard ARGUMENTS --json` prints."""
    assert main(["dashboard", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def found_in(spec, *names):
    """All values under these names, anywhere in a spec, one by one."""
    if isinstance(spec, list):
        return [value for item in spec for value in found_in(item, *names)]
    if not isinstance(spec, dict):
        return []
    here = [value for name, value in spec.items() if name in names]
    flat = [v for value in here for v in (value if isinstance(value, list) else [value])]
    return flat + [value for item in spec.values() for value in found_in(item, *names)]


def columns_of(run):
    """The columns that W&B has of a run: `config:loss.value.beta`, `summary:val/bpd.last`."""

    def flat(values, prefix):
        for key, value in values.items():
            yield prefix + key
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")

    config = {key: {"value": value} for key, value in run.config.items()}
    return {*flat(config, "config:"), *flat(run.summary, "summary:")}


@pytest.mark.parametrize("view", VIEWS)
def test_every_key_exists_in_the_runs(view, sweep, capsys):
    spec = printed(capsys, sweep, *view)["spec"]
    by_type = {run.job_type: run for run in read_runs(sweep)}  # its runs are linked there
    run, summary = by_type["train"], by_type["sweep"]

    accessors = found_in(spec, "accessor", "xAxis", "yAxis", "columnOrder")
    accessors = {a for a in accessors if ":" in a} - {"run:displayName"}
    assert accessors >= {"config:loss.value.beta", "config:model.value.latent_dim"}
    assert accessors >= {"config:beta_elbo.value", "summary:val/bpd.last", "summary:val/rate"}
    assert accessors <= columns_of(run)
    assert found_in(spec, "targetKey") == ["val/bpd.last"]
    axes = {c["accessor"]: c.get("log") for c in found_in(spec, "columns")}
    assert axes["config:loss.value.beta"] is True
    assert not axes["config:model.value.latent_dim"]

    logged = {key for row in run.metric_rows for key in row}
    panels = [panel for panel in found_in(spec, "panels") if "viewType" in panel]
    lines = [panel["config"] for panel in panels if "Line Plot" in panel["viewType"]]
    assert [line["metrics"] for line in lines] == [["val/bpd"], ["val/rate"]]
    assert {key for line in lines for key in [line["xAxis"], *line["metrics"]]} <= logged

    media = set(found_in(spec, "mediaKeys"))
    assert media >= {"figures/reconstructions", "figures/latents", "sweep/comparison"}
    assert {"faces/reconstructions", "faces/samples"} <= media
    media -= set(FACES)
    assert media <= {*run.pictures, *summary.pictures}

    run_sets = found_in(spec, "runSets")
    assert len(run_sets) == (5 if view else 1)  # of a report, each grid has its own
    for runs in run_sets:
        (only,) = runs["filters"]["filters"]
        assert only["key"] == {"section": "run", "name": "group"}
        assert (only["op"], only["value"], only["disabled"]) == ("=", GROUP, False)
    assert run.group == summary.group == GROUP


@pytest.fixture
def odd_sweep(tmp_path):
    """A sweep of six finished runs and a failed one, with names that are hard to escape."""
    values = grid_of({"loss.beta": [1e-5, 1e-4, 1e-3], "model.latent_dim": [16, 64]})
    folder = make_sweep(tmp_path / ODD, values)
    make_run(folder, {"loss.beta": ODD}, "failed", {}, error="no number")
    return folder


def rendered(spec):
    """The headings, tables (as lists of rows) and commands of a report's Markdown."""
    headings, tables, commands = [], [], []
    texts = [block["content"] for block in spec["blocks"] if block["type"] == "markdown-block"]
    parser = MarkdownIt("commonmark").enable("table")
    tokens = [token for text in texts for token in parser.parse(text)]
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "fence":
            commands += token.content.splitlines()
        elif token.type == "inline" and before.type in ("th_open", "td_open", "heading_open"):
            shown = "".join(child.content for child in token.children)
            (headings if before.type == "heading_open" else tables[-1][-1]).append(shown)
    return headings, tables, commands


def test_a_report_says_which_runs_are_best_and_how_to_repeat_them(odd_sweep, capsys):
    spec = printed(capsys, odd_sweep, "--report", "--project", "p")
    assert spec["description"] == "7 runs of a sweep: 6 finished, 1 failed"
    headings, (best, table), (_, *commands) = rendered(spec["spec"])
    assert headings == [ODD, "The best by val/bpd, lower is better"]
    measured = {  # by the folders alone
        file.parent.name: json.loads(file.read_text())["final"].get("val/bpd")
        for file in odd_sweep.glob("*/summary.json")
    }
    finished = sorted(filter(measured.get, measured), key=measured.get)
    assert [row[0] for row in best] == ["run", *finished[:5]]
    assert [command.split()[2:] for command in commands] == [n.split(",") for n in finished[:5]]
    assert {row[0] for row in table[1:]} == set(measured)
    heads, *rows = table
    (failed,) = (dict(zip(heads, row, strict=True)) for row in rows if row[-1] == "failed")
    assert (failed["loss.beta"], failed["val/bpd"]) == (ODD, "")
    for run_set in found_in(spec, "runSets"):
        assert run_set["filters"]["filters"][0]["value"] == ODD


def test_a_report_of_two_objectives_has_the_pareto_front(tmp_path, capsys):
    values = grid_of({"loss.beta": [1e-5, 1e-4, 1e-3]})
    folder = make_sweep(tmp_path / "front", values, ["val/rate", "val/mse"])
    make_run(folder, {"loss.beta": 1}, metrics={"val/rate": 1e6, "val/mse": 1e6})
    headings, (best, table), _ = rendered(printed(capsys, folder, "--report")["spec"])
    assert headings == ["front", "The 3 best trade-offs"]
    assert sorted(row[0] for row in best[1:]) == sorted(
        f"loss.beta={v['loss.beta']}" for v in values
    )
    assert len(table) == 5


def test_a_report_without_a_finished_run(tmp_path, capsys):
    folder = make_sweep(tmp_path / "cut", [])
    make_run(folder, {"loss.beta": 1e-4}, status=None)
    headings, (table,), _ = rendered(printed(capsys, folder, "--report")["spec"])
    assert headings == ["cut"]
    assert table[1][-1] == "cut"


def test_the_package_reads_a_report_back(odd_sweep, capsys):
    """By W&B's own model, whose blocks and panels are then all of a known type."""
    from wandb_workspaces.reports.v2 import interface, internal

    sent = printed(capsys, odd_sweep, "--report")
    known = interface.Report._from_model(internal.ReportViewspec.model_validate(sent))
    assert "Unsupported" not in capsys.readouterr().err
    known.width = sent["spec"]["width"]  # which it drops
    again = known._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    assert again == sent
    grids = [block for block in known.blocks if isinstance(block, interface.PanelGrid)]
    assert grids
    for grid in grids:
        spots = [
            (x, y)
            for place in (panel.layout for panel in grid.panels)
            for x in range(place.x, place.x + place.w)
            for y in range(place.y, place.y + place.h)
        ]
        assert len(spots) == len(set(spots))  # no panel lies on another
        assert max(x for x, _ in spots) < 24


def test_a_run_without_configuration_is_skipped(sweep, tmp_path, capsys):
    whole = found_in(printed(capsys, sweep), "accessor")
    copy = shutil.copytree(sweep, tmp_path / "copy", symlinks=True)
    first, second = sorted(copy.glob("loss.beta=*/.hydra/config.yaml"))
    first.unlink()
    assert {*found_in(printed(capsys, copy), "accessor")} >= {*whole}
    second.unlink()
    assert main(["dashboard", str(copy), "--json"]) == 1
    assert "--project" in capsys.readouterr().err


def test_the_workspace_is_saved_in_the_runs_project(sweep, monkeypatch, capsys):
    with ViewServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", server.key)
        assert main(["dashboard", str(sweep)]) == 0
        assert main(["dashboard", str(sweep), "--entity", "team", "--project", "other"]) == 0
    own, other = server.views
    assert (own["entityName"], own["projectName"]) == (server.entity, "minifaceapp")
    assert (other["entityName"], other["projectName"]) == ("team", "other")
    assert own["displayName"] == "Sweep it_s β_1"
    assert "val/bpd.last" in own["spec"]
    view = own["name"].removeprefix("nw-").removesuffix("-v")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{server.url}/{server.entity}/minifaceapp?nw={view}"
    assert len(said) == 2


def test_the_report_is_saved_in_the_runs_project(sweep, monkeypatch, capsys):
    with ViewServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", server.key)
        sent = printed(capsys, sweep, "--report")
        assert server.bodies == []
        assert main(["dashboard", str(sweep), "--report"]) == 0
    (view,) = server.views
    assert (view["entityName"], view["projectName"]) == (server.entity, "minifaceapp")
    assert (view["type"], view["displayName"]) == ("runs", "Sweep it_s β_1")
    assert view["description"] == sent["description"]
    saved = json.loads(view["spec"])
    for names in (["content"], ["metrics", "mediaKeys", "accessor", "targetKey"], ["filters"]):
        assert found_in(saved, *names) == found_in(sent, *names)
    assert server.projects == ["minifaceapp"]  # there was none
    (url,) = capsys.readouterr().out.splitlines()
    assert url == f"{server.url}/{server.entity}/minifaceapp/reports/Sweep-it_s-β_1--6"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("no login", r"`wandb login`.*--json"),
        ("nobody there", r"refused the VIEW.*--json"),
        ("refused", r"refused the VIEW.*--json"),
        ("no package", "pip install wandb-workspaces"),
    ],
)
def test_trouble_is_one_message(trouble, message, view, sweep, monkeypatch, capsys):
    if trouble != "no login":
        monkeypatch.setenv("WANDB_API_KEY", WandbServer.key)
    if trouble == "no package":
        monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
        monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with WandbServer() as server:  # which knows no workspaces
        if trouble == "refused":
            monkeypatch.setenv("WANDB_BASE_URL", server.url.replace("://", "://me:secret@"))
        assert main(["dashboard", str(sweep), "--entity", "e", *view]) == 1
    err = capsys.readouterr().err
    assert re.search(message.replace("VIEW", "report" if view else "workspace"), err)
    assert "secret" not in err
