"""`vae dashboard`: every key in a workspace is one that W&B has of the sweep's runs."""

import json
import re
import shutil
import sys

import pytest

from tests.support.train_command import TINY, run_train
from tests.support.wandb_files import read_runs
from tests.support.wandb_server import WandbServer
from vae.cli.main import main

pytest.importorskip("wandb_workspaces", reason="the extra `dashboard` is not installed")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning"),
    pytest.mark.usefixtures("fresh_wandb"),
]

GROUP = "it's β=1"  # not easy to quote


class ViewServer(WandbServer):
    """Takes workspaces, too."""

    def __init__(self):
        super().__init__()
        self.views = []

    def _query(self, name, given):
        if name == "GetDefaultEntity":
            return {"viewer": {"id": "1", "entity": self.entity}}
        if name == "UpsertView2":
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


@pytest.fixture
def workspace(sweep, capsys):
    """The workspace as `vae dashboard --json` prints it."""
    assert main(["dashboard", str(sweep), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["spec"]


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


def test_every_workspace_key_exists_in_the_runs(sweep, workspace):
    spec = workspace["section"]
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
    lines = [p["config"] for p in found_in(spec, "panels") if "Line Plot" in p["viewType"]]
    assert [line["metrics"] for line in lines] == [["val/bpd"], ["val/rate"]]
    assert {key for line in lines for key in [line["xAxis"], *line["metrics"]]} <= logged

    media = set(found_in(spec, "mediaKeys"))
    assert media >= {"figures/reconstructions", "figures/latents", "sweep/comparison"}
    assert media <= {*run.pictures, *summary.pictures}

    (runs,) = found_in(spec, "runSets")
    (only,) = runs["filters"]["filters"]
    assert only["key"] == {"section": "run", "name": "group"}
    assert (only["op"], only["value"], only["disabled"]) == ("=", GROUP, False)
    assert run.group == summary.group == GROUP


def test_a_run_without_configuration_is_skipped(sweep, workspace, tmp_path, capsys):
    copy = shutil.copytree(sweep, tmp_path / "copy", symlinks=True)
    first, second = sorted(copy.glob("loss.beta=*/.hydra/config.yaml"))
    first.unlink()
    assert main(["dashboard", str(copy), "--json"]) == 0
    columns = found_in(json.loads(capsys.readouterr().out), "accessor")
    assert {*columns} >= {*found_in(workspace, "accessor")}
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


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("no login", r"`wandb login`.*--json"),
        ("nobody there", r"refused the workspace.*--json"),
        ("refused", r"refused the workspace.*--json"),
        ("no package", "pip install wandb-workspaces"),
    ],
)
def test_trouble_is_one_message(trouble, message, sweep, monkeypatch, capsys):
    if trouble != "no login":
        monkeypatch.setenv("WANDB_API_KEY", WandbServer.key)
    if trouble == "no package":
        monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
        monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with WandbServer() as server:  # which knows no workspaces
        if trouble == "refused":
            monkeypatch.setenv("WANDB_BASE_URL", server.url.replace("://", "://me:secret@"))
        assert main(["dashboard", str(sweep), "--entity", "e"]) == 1
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert "secret" not in err
