"""A sweep on W&B: links to its runs, as W&B's tools expect them, and its summary run."""

import json
import logging
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from omegaconf import OmegaConf
from PIL import Image

from tests.support.fake_sweeps import make_run, make_sweep
from tests.support.train_command import TINY, call_train
from tests.support.wandb_files import read_runs
from tests.support.wandb_server import WandbServer
from vae.runs.config import constraints_of
from vae.runs.wandb_settings import WandbConfig
from vae.sweeps.callbacks import reject_password
from vae.sweeps.comparison import read_sweep
from vae.sweeps.wandb_sweep import SUMMARY_ID_FILE, link_runs, log_summary

LINKED = {
    "offline-run-20261122_100000-aaaa": "loss.beta=1e-05",
    "offline-run-20261122_110000-aaaa": "loss.beta=1e-05",
    "run-20261122_100000-bbbb": "loss.beta=0.1",
}


@pytest.fixture
def tracked(tmp_path):
    """Two runs, one of them resumed: three folders of W&B's; and W&B's own link and log."""
    sweep = tmp_path / "a sweep, β"
    for folder, run in LINKED.items():
        shelf = sweep / run / "wandb"
        (shelf / folder).mkdir(parents=True)
        (shelf / folder / "run.wandb").write_text(run)
        (shelf / "debug.log").write_text("")
    (shelf / "latest-run").symlink_to(folder)
    return sweep


def test_each_run_is_linked_once(tracked, tmp_path, monkeypatch):
    link_runs(tmp_path)
    assert list(tmp_path.iterdir()) == [tracked]  # without runs there is no folder
    link_runs(tracked)
    monkeypatch.chdir(tmp_path)
    link_runs(Path(tracked.name))
    links = {path.name: os.readlink(path) for path in (tracked / "wandb").iterdir()}
    assert links == {name: f"../{run}/wandb/{name}" for name, run in LINKED.items()}
    moved = tracked.rename(tmp_path / "moved")
    for name, run in LINKED.items():
        assert (moved / "wandb" / name / "run.wandb").read_text() == run


def test_dead_links_are_removed_and_others_kept(tracked):
    link_runs(tracked)
    summary = tracked / "wandb" / "offline-run-20261122_120000-cccc"  # a run of the sweep itself
    summary.mkdir()
    shutil.rmtree(tracked / "loss.beta=0.1")
    link_runs(tracked)
    assert {path.name for path in (tracked / "wandb").iterdir()} == {
        *list(LINKED)[:2],
        summary.name,
    }
    assert not summary.is_symlink()


def test_concurrent_runs_link_once(tracked, caplog):
    """Links are removed, broken and made by four at once."""
    for number in range(40):
        (tracked / str(number) / "wandb" / f"offline-run-20261122_130000-{number:04}").mkdir(
            parents=True
        )

    def remove_break_and_link(_):
        for path in (tracked / "wandb").glob("*-000*"):
            path.unlink(missing_ok=True)
        for number in range(20):
            with suppress(FileExistsError):
                (tracked / "wandb" / f"run-{number}").symlink_to("nowhere")
        link_runs(tracked)

    link_runs(tracked)
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(4) as threads:
        list(threads.map(remove_break_and_link, range(300)))
    assert caplog.records == []
    link_runs(tracked)
    assert len(list((tracked / "wandb").iterdir())) == 43


@pytest.mark.parametrize("error", [PermissionError("no symlinks here"), NotImplementedError("no")])
def test_no_links_on_file_systems_without_them(tracked, monkeypatch, caplog, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Path, "symlink_to", fail)
    with caplog.at_level(logging.INFO):
        link_runs(tracked)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert str(error) in record.getMessage()


SETTINGS = WandbConfig("offline", "faces", None, None, None, ["celeba"], log_model=False)


@pytest.fixture
def sweep(tmp_path, fresh_wandb):
    """A finished run, a failed one, and two of the three figures."""
    folder = make_sweep(tmp_path / "beta", [])
    make_run(folder, {"loss.beta": 1e-3}, metrics={"val/bpd": 3.5, "val/rate": 20.0})
    make_run(folder, {"loss.beta": "nonsense"}, "failed", {}, error="loss.beta: got 'nonsense'")
    for number, name in enumerate(["comparison", "samples"]):
        Image.new("RGB", (8, 8), (200, 100, number)).save(folder / f"{name}.png")
    return read_sweep(folder)


class TableServer(WandbServer):
    """Takes tables too, of which wandb makes artifacts; each run has one here, with its id."""

    def _query(self, name, variables):
        given = variables.get("input") or variables
        run_id = given.get("artifactID") or given.get("artifactManifestID")
        match name:
            case "ArtifactType":
                return {"project": None}
            case "CreateArtifact":
                sequence = {"id": "4", "latestArtifact": None}
                about = {"id": given["runName"], "state": "PENDING", "artifactSequence": sequence}
                return {"createArtifact": {"artifact": about}}
            case "CreateArtifactManifest" | "UpdateArtifactManifest":
                manifest = {"id": run_id, "file": self._place(run_id, "wandb_manifest.json")}
                return {name[0].lower() + name[1:]: {"artifactManifest": manifest}}
            case "CreateArtifactFiles":
                files = [self._place(f["artifactID"], f["name"]) for f in given["artifactFiles"]]
                return {"createArtifactFiles": {"files": {"edges": [{"node": f} for f in files]}}}
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": run_id, "digest": "5"}}}
        return super()._query(name, variables)

    def _place(self, run_id, name):
        url = f"{self.url}/storage/{run_id}/artifact/{name}"
        return {
            "id": name, "name": name, "displayName": name, "storagePath": name,
            "uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None,
            "artifact": {"id": run_id},
        }  # fmt: skip


def table_of(run):
    """The rows of a run's table as dicts; fails on what is not JSON, such as NaN."""
    return rows_of(run.tables["comparison"].read_text())


def rows_of(text):
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
    good, bad = table_of(run)
    assert (good["run"], good["status"], good["error"]) == ("loss.beta=0.001", "finished", None)
    assert (good["loss.beta"], good["model.latent_dim"], good["beta_elbo"]) == (1e-3, 128, 0.096)
    assert (good["val/bpd"], good["val/rate"], good["val/psnr"]) == (3.5, 20.0, None)
    assert (bad["loss.beta"], bad["status"], bad["val/bpd"]) == ("nonsense", "failed", None)
    assert bad["error"] == "loss.beta: got 'nonsense'"
    assert str(sweep.folder) not in str(bad)  # nothing of this machine
    assert {key: path.read_bytes() for key, path in run.pictures.items()} == {
        f"sweep/{name}": (sweep.folder / f"{name}.png").read_bytes()
        for name in ("comparison", "samples")
    }


def test_constraints_are_in_the_summary(sweep):
    bounded = replace(sweep, constraints=constraints_of("val/rate <= 20"))
    log_summary(bounded, SETTINGS, sweep.folder)
    (run,) = read_runs(sweep.folder)
    assert run.config["constraints"] == ["val/rate <= 20"]
    assert [row["feasible"] for row in table_of(run)] == [True, False]


SECRET = "hunter2"
STUDY = [
    "-m", *(o for o in TINY if not o.startswith("wandb.")), "wandb.mode=online", "sweep.name=s",
    "hydra/sweeper=study", "hydra.sweeper.n_trials=2", "loss.beta=interval(0.1,0.2)",
    "sweep.pruner=median", "sweep.storage=${oc.env:STUDY_URL}",
]  # fmt: skip


@pytest.mark.slow
def test_a_sweep_with_variables_of_one_run_and_a_secret_storage(tmp_path, monkeypatch, capsys):
    """Each run is a W&B run of its own, and the secret is in no file, request and message."""
    url = f"sqlite:///file:{tmp_path}/study.db?uri=true&password={SECRET}"
    with TableServer() as server:
        variables = {"WANDB_RUN_ID": "x", "WANDB_NAME": "n", "WANDB_RESUME": "allow"}
        for name, value in {**server.environment, **variables, "STUDY_URL": url}.items():
            monkeypatch.setenv(name, value)
        said = []
        for arguments in (STUDY, STUDY, ["resume=RUN", "trainer.epochs=3"]):
            last, *_ = sorted((tmp_path / "multirun").glob("s/loss*")) or [""]
            arguments = [each.replace("RUN", str(last)) for each in arguments]
            code, out, err = call_train(arguments, tmp_path, monkeypatch, capsys)
            assert code == 0, err
            said.append(out + err)
        runs = server.runs
    assert len(runs) == 3  # two, and the summary
    assert "x" not in runs
    assert {run.about["jobType"] for run in runs.values()} == {"train", "sweep"}
    assert {run.about["groupName"] for run in runs.values()} == {"s"}
    names = sorted(run.about["displayName"] for run in runs.values())
    folders = [folder.name for folder in (tmp_path / "multirun").glob("s/loss*")]
    assert names == sorted([*folders, "s summary"])
    assert "2 of 2 trials" in said[1]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for text in (*files, *server.bodies, *(each.encode() for each in said)):
        assert SECRET.encode() not in text
    key = server.key.encode()
    assert not any(key in text for text in files)


@pytest.mark.parametrize("sweep_of_many", [True, False])
@pytest.mark.parametrize(
    "storage",
    [
        "postgresql+psycopg://me:SECRET@host/db",
        "postgresql+psycopg://me:a/SECRET:b@c@host/db",
        "postgresql+psycopg://me:my SECRET@host/db",
        "mysql://host/db?user=me&db-PassWord=SECRET",
        "mysql://me:SECRET@host:port/db",
    ],
)
def test_a_password_on_the_command_line_is_refused(
    storage, sweep_of_many, tmp_path, monkeypatch, capsys
):
    storage = storage.replace("SECRET", SECRET)
    arguments = [*TINY, f"sweep.storage='{storage}'"]
    many = ["-m", "hydra/sweeper=study", "loss.beta=choice(0.1,0.2)"] if sweep_of_many else []
    code, out, err = call_train([*many, *arguments], tmp_path, monkeypatch, capsys)
    assert code != 0
    assert "sweep.storage: " in err
    assert "sweep.storage='${oc.env:STUDY_URL}'" in err
    assert SECRET not in out + err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [(None, "Environment variable 'STUDY_URL' not found"), ("", "got '', but it takes the URL")],
)
def test_a_variable_without_a_storage_is_one_message(url, words, tmp_path, monkeypatch, capsys):
    """With a study of its own, this process would leave those of other machines alone."""
    monkeypatch.delenv("STUDY_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("STUDY_URL", url)
    search = ["-m", "hydra/sweeper=study", "loss.beta=choice(0.1,0.2)"]
    storage = "sweep.storage=${oc.env:STUDY_URL}"
    code, out, err = call_train([*search, *TINY, storage], tmp_path, monkeypatch, capsys)
    assert code == 1
    assert re.search(f"^error: sweep.storage: .*{words}", err, re.MULTILINE)
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql+psycopg://me@host:5432/db?application_name=a%40b",
        "postgresql+psycopg://me:${oc.env:PW}@host/db",
        "mysql://host/db?user=me&password=${oc.env:PW}",
        "sqlite:////data/me@host/12:30.db",
        "${oc.env:STUDY_URL}",
        None,
    ],
)
def test_a_storage_without_a_password_is_accepted(storage):
    plain = {"sweep": {"storage": storage}, "hydra": {"sweeper": {}}}
    reject_password(OmegaConf.create(plain))


def test_a_resumed_sweep_keeps_its_wandb_run(sweep):
    log_summary(sweep, SETTINGS, sweep.folder)
    time.sleep(1)  # wandb names a run's folder by the second
    log_summary(replace(sweep, runs=sweep.runs[:1]), SETTINGS, sweep.folder)
    first, second = read_runs(sweep.folder)
    assert first.id == second.id == (sweep.folder / SUMMARY_ID_FILE).read_text().strip()
    assert [len(table_of(run)) for run in (first, second)] == [2, 1]


def test_online_summaries_arrive_and_resume(sweep, monkeypatch, caplog):
    init, resumed = wandb.init, []

    def spy(**given):
        resumed.append((given["id"], given["resume"]))
        return init(**given)

    monkeypatch.setattr(wandb, "init", spy)
    with TableServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for _ in range(2):
            log_summary(sweep, replace(SETTINGS, mode="auto"), sweep.folder)
        ((run_id, run),) = server.runs.items()
        assert server.unknown == []
    assert run_id == (sweep.folder / SUMMARY_ID_FILE).read_text().strip()
    assert resumed == [(None, None), (run_id, "allow")]
    assert (run.about["groupName"], run.about["jobType"]) == ("beta", "sweep")
    assert (run.about["displayName"], run.exit_code) == ("beta summary", 0)
    for path in (run.summary["comparison"]["path"], "artifact/comparison.table.json"):
        assert [row["run"] for row in rows_of(run.files[path])] == [r.name for r in sweep.runs]
    picture = run.files[run.summary["sweep/samples"]["path"]]
    assert picture == (sweep.folder / "samples.png").read_bytes()
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("changed", "groups"), [({"group": "mine"}, ["mine"]), ({"mode": "disabled"}, [])]
)
def test_the_settings_of_the_runs_are_used(sweep, changed, groups):
    before = sorted(sweep.folder.iterdir())
    log_summary(sweep, replace(SETTINGS, **changed), sweep.folder)
    assert [run.group for run in read_runs(sweep.folder)] == groups
    assert (sorted(sweep.folder.iterdir()) == before) is not bool(groups)


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
        assert len(table_of(run)) == 2
