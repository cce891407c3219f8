"""`vae dashboard`: every key in a workspace is one that W&B has of the sweep's runs."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import wandb

from tests.support.train_command import TINY, run_train
from tests.support.wandb_files import read_run, read_runs
from tests.support.wandb_server import WandbServer
from vae.cli.result_commands import add_dashboard
from vae.sweeps.comparison import read_sweep
from vae.sweeps.wandb_sweep import build_workspace
from vae.utils.errors import UserError

pytest.importorskip("wandb_workspaces", reason="the extra `dashboard` is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")

GROUP = "it's β=1"  # not easy to quote


class ViewServer(WandbServer):
    """Takes workspaces, too."""

    def __init__(self):
        super().__init__()
        self.views = []

    def _query(self, request):
        (name,) = re.findall(r"^\s*(?:query|mutation) (\w+)", request["query"])
        if name == "GetDefaultEntity":
            return {"viewer": {"id": "1", "entity": self.entity}}
        if name == "UpsertView2":
            self.views.append(request["variables"])
            view = {"id": "6", "name": request["variables"]["name"]}
            return {"upsertView": {"view": view, "inserted": True}}
        return super()._query(request)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep of two runs, and its summary, offline."""
    folder = tmp_path_factory.mktemp("sweep")
    arguments = [o for o in TINY if not o.startswith("wandb.")] + ["wandb.mode=offline"]
    swept = ["loss.beta=1e-5,1e-4", f'wandb.group="{GROUP}"', "hydra.sweep.dir=sweep"]
    done = run_train(["-m", *arguments, *swept], folder, WANDB_ERROR_REPORTING="false")
    assert done.returncode == 0, done.stderr
    return folder / "sweep"


def summary_of(sweep):
    """The W&B run that the sweep itself is; those of its runs are linked beside it."""
    (summary,) = [run for run in read_runs(sweep) if run.job_type == "sweep"]
    return summary


@pytest.fixture(autouse=True)
def fresh_wandb(monkeypatch):
    """wandb reads its environment once a process; nothing is known there but 127.0.0.1."""
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    wandb.teardown()
    yield
    wandb.teardown()


def dashboard(*arguments):
    parser = argparse.ArgumentParser()
    add_dashboard(parser.add_subparsers())
    options = parser.parse_args(["dashboard", *map(str, arguments)])
    options.run(options)


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


def test_every_workspace_key_exists_in_the_runs(sweep, capsys):
    dashboard(sweep, "--json")
    spec = json.loads(capsys.readouterr().out)["spec"]["section"]
    run = read_run(next(sweep.glob("loss.beta=1e-05")))

    accessors = found_in(spec, "accessor", "xAxis", "yAxis", "columnOrder")
    accessors = {a for a in accessors if ":" in a} - {"run:displayName"}
    assert accessors >= {"config:loss.value.beta", "config:model.value.latent_dim"}
    assert accessors >= {"config:beta_elbo.value", "summary:val/bpd.last", "summary:val/rate"}
    assert accessors <= columns_of(run)
    targets = found_in(spec, "targetKey")
    assert targets == ["val/bpd.last"]
    assert f"summary:{targets[0]}" in columns_of(run)

    logged = {key for row in run.metric_rows for key in row}
    lines = [p["config"] for p in found_in(spec, "panels") if "Line Plot" in p["viewType"]]
    assert [line["metrics"] for line in lines] == [["val/bpd"], ["val/rate"]]
    assert {key for line in lines for key in [line["xAxis"], *line["metrics"]]} <= logged

    media = set(found_in(spec, "mediaKeys"))
    assert media >= {"figures/reconstructions", "figures/samples", "sweep/comparison"}
    assert media <= {*run.pictures, *summary_of(sweep).pictures}


def test_only_the_runs_of_the_group_are_shown(sweep, capsys):
    dashboard(sweep, "--json")
    (runs,) = found_in(json.loads(capsys.readouterr().out), "runSets")
    (only,) = runs["filters"]["filters"]
    assert only["key"] == {"section": "run", "name": "group"}
    assert (only["op"], only["value"], only["disabled"]) == ("=", GROUP, False)
    loss = next(sweep.glob("loss.beta=1e-05"))
    assert read_run(loss).group == summary_of(sweep).group == GROUP


def test_a_run_without_configuration_is_skipped(sweep, tmp_path, capsys):
    dashboard(sweep, "--json")
    copy = shutil.copytree(sweep, tmp_path / "copy", symlinks=True)
    for run in sorted(copy.glob("loss.beta=*")):
        config = run / ".hydra" / "config.yaml"
        text = config.read_text()
        config.unlink()
        dashboard(copy, "--json")
        config.write_text(text)
    columns = [found_in(json.loads(s), "accessor") for s in capsys.readouterr().out.splitlines()]
    assert len(columns) == 3
    assert all({*lost} >= {*columns[0]} for lost in columns)
    for config in copy.glob("*/.hydra/config.yaml"):
        config.unlink()
    with pytest.raises(UserError, match="--project"):
        dashboard(copy, "--json")


def test_beta_is_on_a_logarithmic_axis(sweep):
    spec = build_workspace(read_sweep(sweep), "e", "p", "g")._spec
    axes = {c["accessor"]: c.get("log") for c in found_in(spec, "columns")}
    assert axes["config:loss.value.beta"] is True
    assert not axes["config:model.value.latent_dim"]


def test_the_workspace_is_saved_in_the_runs_project(sweep, monkeypatch, capsys):
    with ViewServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", server.key)
        dashboard(sweep)
        dashboard(sweep, "--entity", "team", "--project", "other")
    own, other = server.views
    assert (own["entityName"], own["projectName"]) == (server.entity, "minifaceapp")
    assert (other["entityName"], other["projectName"]) == ("team", "other")
    assert own["displayName"] == "Sweep it_s β_1"
    assert "val/bpd.last" in own["spec"]
    view = own["name"].removeprefix("nw-").removesuffix("-v")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{server.url}/{server.entity}/minifaceapp?nw={view}"
    assert len(said) == 2


def test_a_missing_login_is_reported(sweep):
    with pytest.raises(UserError, match=r"`wandb login`.*--json"):
        dashboard(sweep)


@pytest.mark.parametrize("trouble", ["nobody there", "refused"])
def test_a_refusing_server_is_reported(sweep, monkeypatch, trouble):
    monkeypatch.setenv("WANDB_API_KEY", WandbServer.key)
    with WandbServer() as server:  # which knows no workspaces
        if trouble == "refused":
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
        with pytest.raises(UserError, match=r"refused the workspace.*--json"):
            dashboard(sweep, "--entity", "e")


def test_the_missing_package_is_reported(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match="pip install wandb-workspaces"):
        dashboard(sweep, "--json")


def test_the_command_imports_its_package_lazily():
    program = "import vae.cli.result_commands, sys; print({'torch', 'wandb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
