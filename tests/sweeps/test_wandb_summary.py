"""A sweep's summary run on W&B: table and figures, offline and online."""

import json
import logging
import re
import time
from dataclasses import replace

import pytest
import wandb
from PIL import Image

from tests.support.fake_sweeps import make_run, make_sweep
from tests.support.wandb_files import read_runs
from tests.support.wandb_server import WandbServer
from vae.runs.wandb_run import WandbConfig
from vae.sweeps.comparison import read_sweep
from vae.sweeps.wandb_sweep import SUMMARY_ID_FILE, log_summary

pytestmark = pytest.mark.usefixtures("fresh_wandb")

SETTINGS = WandbConfig("offline", "faces", None, None, None, ["celeba"], log_model=False)


class TableServer(WandbServer):
    """Takes tables too, of which wandb makes artifacts; each run has one here, with its id."""

    def _query(self, request):
        (name,) = re.findall(r"^\s*(?:query|mutation) (\w+)", request["query"])
        given = request.get("variables") or {}
        given = given.get("input") or given
        if name == "ArtifactType":
            return {"project": None}
        if name == "CreateArtifact":
            sequence = {"id": "4", "latestArtifact": None}
            artifact = {"id": given["runName"], "state": "PENDING", "artifactSequence": sequence}
            return {"createArtifact": {"artifact": artifact}}
        if name in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            # the second call, with the manifest itself, names it as the first was answered
            run_id = given.get("artifactID") or given["artifactManifestID"]
            manifest = {"id": run_id, "file": self._place(run_id, "wandb_manifest.json")}
            return {name[0].lower() + name[1:]: {"artifactManifest": manifest}}
        if name == "CreateArtifactFiles":
            files = [self._place(f["artifactID"], f["name"]) for f in given["artifactFiles"]]
            return {"createArtifactFiles": {"files": {"edges": [{"node": f} for f in files]}}}
        if name == "CommitArtifact":
            artifact = {"id": given["artifactID"], "digest": "5"}
            return {"commitArtifact": {"artifact": artifact}}
        return super()._query(request)

    def _place(self, run_id, name):
        return {
            "id": name,
            "name": name,
            "displayName": name,
            "uploadUrl": f"{self.url}/storage/{run_id}/artifact/{name}",
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "storagePath": name,
            "artifact": {"id": run_id},
        }


@pytest.fixture
def sweep(tmp_path):
    """A finished run, a failed one, and two of the three figures."""
    folder = make_sweep(tmp_path / "beta", [])
    make_run(folder, {"loss.beta": 1e-3}, metrics={"val/bpd": 3.5, "val/rate": 20.0})
    make_run(folder, {"loss.beta": "nonsense"}, "failed", {}, error="loss.beta: got 'nonsense'")
    for number, name in enumerate(["comparison", "samples"]):
        Image.new("RGB", (8, 8), (200, 100, number)).save(folder / f"{name}.png")
    return read_sweep(folder)


def table_of(text):
    """The rows of a W&B table as dicts; fails on what is not JSON, such as NaN."""
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def warnings(caplog):
    ours = [record for record in caplog.records if record.name.startswith("vae.")]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def test_a_sweep_is_one_run_with_a_table_and_figures(sweep):
    log_summary(sweep, SETTINGS, sweep.folder)
    (run,) = read_runs(sweep.folder)
    assert (run.name, run.group, run.job_type) == ("beta summary", "beta", "sweep")
    assert (run.project, run.tags, run.exit_code) == ("faces", ["celeba"], 0)
    assert run.config["command"] == sweep.command
    good, bad = table_of(run.tables["comparison"].read_text())
    assert (good["run"], good["status"], good["error"]) == ("loss.beta=0.001", "finished", None)
    assert (good["loss.beta"], good["model.latent_dim"], good["beta_elbo"]) == (1e-3, 128, 0.096)
    assert (good["val/bpd"], good["val/rate"], good["val/psnr"]) == (3.5, 20.0, None)
    assert (bad["loss.beta"], bad["status"], bad["val/bpd"]) == ("nonsense", "failed", None)
    assert bad["error"] == "loss.beta: got 'nonsense'"
    sent = {key: path.read_bytes() for key, path in run.pictures.items()}
    assert sent == {
        "sweep/comparison": (sweep.folder / "comparison.png").read_bytes(),
        "sweep/samples": (sweep.folder / "samples.png").read_bytes(),
    }


def test_a_resumed_sweep_keeps_its_wandb_run(sweep):
    log_summary(sweep, SETTINGS, sweep.folder)
    time.sleep(1)  # wandb names a run's folder by the second
    log_summary(replace(sweep, runs=sweep.runs[:1]), SETTINGS, sweep.folder)
    first, second = read_runs(sweep.folder)
    assert first.id == second.id == (sweep.folder / SUMMARY_ID_FILE).read_text().strip()
    assert [len(table_of(r.tables["comparison"].read_text())) for r in (first, second)] == [2, 1]


@pytest.mark.parametrize(
    ("changed", "groups"), [({"group": "mine"}, ["mine"]), ({"mode": "disabled"}, [])]
)
def test_the_settings_of_the_runs_are_used(sweep, changed, groups):
    before = sorted(sweep.folder.iterdir())
    log_summary(sweep, replace(SETTINGS, **changed), sweep.folder)
    assert [run.group for run in read_runs(sweep.folder)] == groups
    assert (sorted(sweep.folder.iterdir()) == before) is not bool(groups)


def test_online_summaries_arrive_and_resume(sweep, monkeypatch, caplog):
    with TableServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", server.key)
        for _ in range(2):
            log_summary(sweep, replace(SETTINGS, mode="auto"), sweep.folder)
        ((run_id, run),) = server.runs.items()
        assert server.unknown == []
    assert run_id == (sweep.folder / SUMMARY_ID_FILE).read_text().strip()
    assert (run.about["groupName"], run.about["jobType"]) == ("beta", "sweep")
    assert (run.about["displayName"], run.exit_code) == ("beta summary", 0)
    for path in (run.summary["comparison"]["path"], "artifact/comparison.table.json"):
        assert [row["run"] for row in table_of(run.files[path])] == [r.name for r in sweep.runs]
    picture = run.files[run.summary["sweep/samples"]["path"]]
    assert picture == (sweep.folder / "samples.png").read_bytes()
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("trouble", "words"),
    [("no key", "wandb login"), ("not started", "broken"), ("not taken", "picture")],
)
def test_any_wandb_error_is_one_warning(trouble, words, sweep, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("broken")

    if trouble == "not started":
        monkeypatch.setattr(wandb, "init", fail)
    if trouble == "not taken":
        (sweep.folder / "comparison.png").write_text("no picture")
    mode = "online" if trouble == "no key" else "offline"
    log_summary(sweep, replace(SETTINGS, mode=mode), sweep.folder)
    (warning,) = warnings(caplog)
    assert words in warning
    if trouble == "not taken":
        (run,) = read_runs(sweep.folder)
        assert len(table_of(run.tables["comparison"].read_text())) == 2
