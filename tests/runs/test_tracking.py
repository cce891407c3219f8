"""Tracking: rows on disk and on W&B; W&B errors never stop a run.

W&B is the real library. Its offline file is read back, and its online runs go to
a server on 127.0.0.1: no test reaches further.
"""

import json
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import wandb
from PIL import Image

from tests.support.run_files import rows
from tests.support.train_command import TINY, call_train
from tests.support.wandb_files import read_run, read_runs
from tests.support.wandb_server import WandbServer
from vae.runs import wandb_run
from vae.runs.checkpoint import load_checkpoint
from vae.runs.tracking import Tracker, truncate_metrics
from vae.runs.wandb_settings import WandbConfig, fitting_name, resolve_mode
from vae.utils.errors import UserError
from vae.utils.files import reject_unsafe_entries

OFFLINE = WandbConfig("offline", "faces", None, "beta", "beta=0.001", ["celeba", "test"], False)
AUTO = replace(OFFLINE, mode="auto")
ONLINE = replace(OFFLINE, mode="online")
CONFIG = {"model": {"latent_dim": 16, "channels": [32, 64]}, "loss": {"beta": 1e-3}, "resume": None}
ROWS = [
    {"step": 10, "epoch": 1, "images": 80, "train/loss": 0.75, "val/bpd": 5.0, "val/psnr": 12.0},
    {"step": 20, "epoch": 2, "images": 160, "train/loss": 0.5, "val/bpd": 3.5, "val/psnr": 18.0},
    {"step": 30, "epoch": 3, "images": 240, "train/loss": 0.25, "val/bpd": 4.0, "val/psnr": 15.0},
]
NAMES = ("reconstructions", "samples", "latents", "interpolation", "traversal")
FIGURES = {f"figures/{name}" for name in NAMES}


def said(caplog):
    """The tracker's own log messages, without those of wandb."""
    return [text for name, _, text in caplog.record_tuples if name == wandb_run.__name__]


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(ValueError("nan"), 1), (KeyboardInterrupt(), 1), (SystemExit(3), 1), (SystemExit(0), 0)],
)
def test_an_exception_marks_the_run_as_failed(tmp_path, error, exit_code):
    with suppress(BaseException), Tracker(tmp_path, OFFLINE, CONFIG) as tracker:
        tracker.log(ROWS[0])
        raise error
    run = read_run(tmp_path)
    assert run.exit_code == exit_code
    assert run.metric_rows == ROWS[:1]


@pytest.mark.parametrize("settings", [OFFLINE, ONLINE], ids=lambda settings: settings.mode)
def test_the_links_of_wandb_do_not_make_a_folder_unsafe(settings, wandb_server, tmp_path):
    folder = tmp_path / "run"
    with Tracker(folder, settings, CONFIG):
        pass
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    outside = [link.name for link in links if folder not in link.resolve().parents]
    assert outside == ["debug-core.log"]
    reject_unsafe_entries(folder)


def test_runs_in_one_process_share_nothing(tmp_path):
    def process():
        return {
            "hooks": [sys.excepthook, sys.exit],
            "environment": dict(os.environ),
            "handlers": [list(logging.getLogger(name).handlers) for name in ("", "vae")],
            "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
            "streams": [sys.stdout, sys.stderr, sys.stdout.write, sys.stderr.write],
        }

    before = process()
    for number in range(3):
        with Tracker(tmp_path / str(number), OFFLINE, {"model": {"latent_dim": number}}) as tracker:
            tracker.log({"step": number, "val/bpd": float(number)})
            assert process() == before
        assert process() == before
    runs = [read_run(tmp_path / str(number)) for number in range(3)]
    assert len({run.id for run in runs}) == 3
    for number, run in enumerate(runs):
        assert run.config == {"model": {"latent_dim": number}}
        assert run.metric_rows == [{"step": number, "val/bpd": number}]
        assert run.summary["val/bpd"] == {"min": number, "last": number}


@pytest.mark.parametrize("asked", [None, "offline", "disabled"])
def test_auto_sends_nothing_without_a_key_or_where_asked(
    asked, tmp_path, monkeypatch, wandb_server, caplog, capfd
):
    folder = tmp_path / "a run"
    if asked:
        monkeypatch.setenv("WANDB_MODE", asked)
    else:
        monkeypatch.delenv("WANDB_API_KEY")
    with caplog.at_level(logging.INFO), Tracker(folder, AUTO, CONFIG) as tracker:
        tracker.log(ROWS[0])
    assert wandb_server.runs == {}
    assert capfd.readouterr() == ("", "")
    assert rows(folder) == ROWS[:1]
    if asked == "disabled":
        assert not (folder / "wandb").exists()
    else:
        run = read_run(folder)
        assert (run.metric_rows, run.exit_code) == (ROWS[:1], 0)
        assert said(caplog) == [f"W&B is offline; to upload this run: wandb sync '{run.folder}'"]


def test_auto_with_a_key_is_online(tmp_path, wandb_server, caplog, capfd):
    picture, server = tmp_path / "samples.png", wandb_server
    Image.new("RGB", (8, 8), (200, 100, 50)).save(picture)
    with caplog.at_level(logging.INFO), Tracker(tmp_path / "run", AUTO, CONFIG) as tracker:
        for row in ROWS:
            tracker.log(row)
        tracker.report({"step": 30}, {"figures/samples": picture})
        tracker.summarise({"status": "finished"})

    ((run_id, run),) = server.runs.items()
    assert run_id == tracker.run_id
    run.config.pop("_wandb")
    assert run.config == CONFIG
    assert (run.about["groupName"], run.about["jobType"]) == ("beta", "train")
    assert (run.about["displayName"], run.about["tags"]) == ("beta=0.001", ["celeba", "test"])
    logged = [{k: v for k, v in row.items() if k[0] != "_"} for row in run.history]
    assert logged[:3] == ROWS
    assert logged[3]["step"] == 30
    sent = run.files[logged[3]["figures/samples"]["path"]]
    assert sent == picture.read_bytes()
    assert run.summary["val/bpd"] == {"min": 3.5, "last": 4.0}
    assert run.summary["status"] == "finished"
    assert run.exit_code == 0
    assert server.unknown == []

    printed = capfd.readouterr().err
    assert len(printed.splitlines()) <= 2
    assert said(caplog) == [f"W&B run: {server.url}/tester/faces/runs/{run_id}"]
    assert server.key not in printed + caplog.text


@pytest.mark.parametrize("settings", [AUTO, OFFLINE])
@pytest.mark.parametrize("variable", ["WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"])
def test_settings_refused_by_wandb_are_user_errors(tmp_path, monkeypatch, variable, settings):
    monkeypatch.setenv(variable, "nonsense")
    with pytest.raises(UserError, match=r"WANDB_.*nonsense"), Tracker(tmp_path / "a", settings, {}):
        pass
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "source", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "~/.netrc"]
)
def test_a_key_is_found_where_wandb_finds_it(tmp_path, monkeypatch, source):
    path = tmp_path / "home" / (".netrc" if source == "~/.netrc" else "elsewhere")
    path.parent.mkdir()
    path.write_text("machine api.wandb.ai login user password x\n")  # of another server
    if source == "~/.netrc":
        monkeypatch.delenv("NETRC")
    else:
        monkeypatch.setenv("NETRC", str(path))
    with pytest.raises(UserError, match=r"wandb\.mode.*`wandb login`.*wandb\.mode=offline"):
        resolve_mode("online")
    wandb.teardown()  # it reads the environment once
    if source.startswith("WANDB"):
        monkeypatch.setenv(source, str(path) if "FILE" in source else WandbServer.key)
    else:
        with path.open("a") as file:
            file.write(f"machine 127.0.0.1:9 login user password {WandbServer.key}\n")
    assert resolve_mode("online") == "online"


VARIABLES = {
    "WANDB_RUN_ID": "x1",
    "WANDB_RESUME": "allow",
    "WANDB_NAME": "n1",
    "WANDB_SWEEP_ID": "s1",
    "WANDB_RUN_GROUP": "g1",
    "WANDB_JOB_TYPE": "j1",
    "WANDB_PROJECT": "p1",
    "WANDB_ENTITY": "e1",
    "WANDB_TAGS": "t1,t2",
    "WANDB_NOTES": "o1",
    "WANDB_HOST": "",  # an empty variable is unset
    "WANDB_DIR": "elsewhere",
}


@pytest.mark.parametrize(
    ("single", "job_type", "resumed"),
    [(True, None, None), (True, "evaluate", "r1"), (False, None, None)],
)
def test_variables_of_wandb(single, job_type, resumed, tmp_path, monkeypatch, caplog):
    """Those of one run apply to a new single run, the others where the configuration is silent."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    silent = WandbConfig("offline", None, None, None, None, [], False)
    given = {"run_id": resumed, "job_type": job_type, "single": single}
    with Tracker(tmp_path, silent, CONFIG, **given) as tracker:
        tracker.log(ROWS[0])
    run = read_run(tmp_path)
    assert run.id == tracker.run_id
    assert (run.project, run.entity, run.tags) == ("p1", "e1", ["t1", "t2"])
    assert (run.group, run.job_type, run.notes) == ("g1", job_type or "j1", "o1")
    own = single and not resumed
    assert (run.name, run.sweep_id) == (("n1", "s1") if own else ("", ""))
    assert (run.id == (resumed or "x1")) == bool(own or resumed)
    (warning,) = (text for text in said(caplog) if "not used" in text)
    assert warning.startswith("WANDB_DIR")


def test_the_configuration_counts_before_the_variables_of_wandb(tmp_path, monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_SWEEP_ID")  # which has a project and an entity of its own
    with Tracker(tmp_path, replace(OFFLINE, entity="mine"), CONFIG, single=True):
        pass
    run = read_run(tmp_path)
    assert (run.project, run.entity, run.tags) == ("faces", "mine", ["celeba", "test"])
    assert (run.group, run.name) == ("beta", "beta=0.001")


def test_generated_names_fit_and_stay_apart():
    texts = ["x" * 128 + "a", "x" * 128 + "b", "é" * 129, "a\nb", "a b", "x" * 128]
    names = [fitting_name(text) for text in texts]
    assert len(set(names)) == len(names)
    for name in names:
        replace(OFFLINE, name=name)  # is not refused


@pytest.mark.parametrize(
    ("door", "named"),
    [
        *(("closed", "resumed"), ("silent", "WANDB_RUN_ID"), (500, "resumed")),
        *((401, "resumed"), (401, "WANDB_RUN_ID")),
    ],
)
def test_a_server_that_cannot_be_used_costs_no_rows(
    door, named, wandb_server, tmp_path, monkeypatch, caplog, capfd
):
    init, modes = wandb.init, []
    monkeypatch.setattr(wandb, "init", lambda **given: modes.append(given["mode"]) or init(**given))
    if door in ("closed", "silent"):  # the others answer, under load late
        monkeypatch.setattr(wandb_run, "REACH_TIMEOUT", 0.3)
    monkeypatch.setattr(wandb_run, "INIT_TIMEOUT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:  # but nobody accepts
        ports = {"closed": 9, "silent": listening.getsockname()[1]}
        url = f"http://127.0.0.1:{ports.get(door, wandb_server.server_port)}"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        wandb_server.fault = door
        monkeypatch.setenv("WANDB_RUN_ID", "id" if named == "WANDB_RUN_ID" else "other")
        run_id = "id" if named == "resumed" else None
        with (
            caplog.at_level(logging.INFO),
            Tracker(tmp_path, ONLINE, CONFIG, run_id=run_id, single=True) as tracker,
        ):
            tracker.log(ROWS[0])
    warning, how_to_upload = said(caplog)
    assert f"{url} cannot be used" in warning
    run = read_run(tmp_path)
    assert str(run.folder) in how_to_upload
    assert tracker.run_id == "id"  # to which `wandb sync` uploads
    if door in ports:
        assert modes == ["offline"]  # wandb itself would have tried for long
        assert run.id == "id"
    else:
        assert modes == ["online", "offline"]
        assert run.id != "id"  # which the failed start has taken in this process
        assert " wandb sync --id id " in how_to_upload
    assert run.exit_code == 0
    assert run.metric_rows == rows(tmp_path) == ROWS[:1]
    assert wandb_server.key not in capfd.readouterr().err + caplog.text


def test_wandb_errors_are_warned_once(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError(f"no space left for {WandbServer.key}")

    caplog.set_level(logging.WARNING)
    monkeypatch.setenv("WANDB_API_KEY", WandbServer.key)
    monkeypatch.setattr(wandb.Run, "log", fail)
    with Tracker(tmp_path, OFFLINE, CONFIG) as tracker:
        for row in ROWS:
            tracker.log(row)
        for _ in range(2):
            tracker.report({"step": 30}, {"figures/samples": tmp_path / "missing.png"})
        tracker.summarise({"status": "finished"})  # which works
        monkeypatch.setattr(wandb.Run, "finish", fail)
    monkeypatch.setattr(wandb, "init", fail)
    with Tracker(tmp_path / "full", OFFLINE, CONFIG) as tracker:
        tracker.log(ROWS[0])
    assert tracker.run_id is None
    warnings = said(caplog)
    assert len(warnings) == 4  # a row, a picture, the end; the start
    assert all("Training continues" in warning for warning in warnings)
    assert sum("no space left for …" in warning for warning in warnings) == 3  # without the key
    assert rows(tmp_path) == ROWS
    assert rows(tmp_path / "full") == ROWS[:1]


VALIDATED = [{"step": 8, "train/loss": 1.0}, {"step": 8, "val/loss": 1.0}]


@pytest.mark.parametrize(
    ("logged", "torn", "step", "measured", "kept"),
    [
        (ROWS, '{"step": 3', 20, True, ROWS[:2]),  # and were it whole, it would be kept
        (ROWS[:1], json.dumps(ROWS[1]), 20, True, ROWS[:2]),  # only the line's end is missing
        (VALIDATED, "", 8, True, VALIDATED),
        (VALIDATED, "", 8, False, VALIDATED[:1]),  # the validation is repeated
    ],
)
def test_rows_that_come_again_are_dropped(logged, torn, step, measured, kept, tmp_path):
    path = tmp_path / "metrics.jsonl"
    truncate_metrics(path, step)
    assert not path.exists()
    path.write_text("".join(json.dumps(row) + "\n" for row in logged) + torn)
    for _ in range(2):
        truncate_metrics(path, step, measured)
        assert rows(tmp_path) == kept
        assert path.read_text().endswith("\n")
    assert list(tmp_path.iterdir()) == [path]


def test_an_offline_run_holds_everything(tmp_path, monkeypatch, capsys):
    arguments = [*TINY, "hydra.run.dir=run", "loss.beta=0.01", "wandb.tags=[a,b]"]
    arguments += ["wandb.log_model=true", "wandb.mode=offline"]
    code, _, err = call_train(arguments, tmp_path, monkeypatch, capsys)
    assert code == 0, err
    folder = tmp_path / "run"
    run = read_run(folder)
    state = load_checkpoint(folder / "checkpoints" / "last.pt")
    assert state["run_id"] == run.id
    assert state["config"].items() <= run.config.items()
    assert run.config["loss"]["beta"] == 0.01
    assert run.config["beta_elbo"] == pytest.approx(0.01 * 768 / 4)
    assert run.metric_rows == rows(folder)
    assert set(run.pictures) == FIGURES
    assert all(path.stat().st_size > 1000 for path in run.pictures.values())
    assert run.step_metrics["*"] == run.step_metrics["val/bpd"] == "step"
    figure = folder / "figures" / "samples.png"  # of the last epoch
    assert run.pictures["figures/samples"].read_bytes() == figure.read_bytes()
    validated = [row for row in rows(folder) if "val/bpd" in row]
    bpd, psnr = ([row[key] for row in validated] for key in ("val/bpd", "val/psnr"))
    assert run.summary["val/bpd"] == {"min": min(bpd), "last": bpd[-1]}
    assert run.summary["val/psnr"] == {"max": max(psnr), "last": psnr[-1]}
    assert run.summary["val/rate"] == validated[-1]["val/rate"]
    (cache,) = (tmp_path / "data" / "cache").glob("synthetic-*")
    assert run.artifacts == [(cache.name, "dataset"), (f"model-{run.id}", "model")]
    assert run.summary["status"] == "finished"
    assert (run.project, run.job_type, run.tags) == ("minifaceapp", "train", ["a", "b"])
    assert "loss.beta=0.01" in run.name
    assert len(run.name) <= 128  # what W&B takes
    assert run.exit_code == 0
    time.sleep(1)  # wandb names a run's folder by the second
    resumed = ["resume=run", "trainer.epochs=3"]
    assert call_train(resumed, tmp_path, monkeypatch, capsys)[0] == 0
    _, second = read_runs(folder)
    assert (second.id, second.name) == (run.id, run.name)
    assert [row["step"] for row in second.metric_rows if "val/bpd" in row] == [12]
