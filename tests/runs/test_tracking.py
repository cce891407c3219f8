"""Tracking: rows on disk and on W&B; W&B errors never stop a run.

W&B is the real library. Its offline file is read back, and its online runs go to
a server on 127.0.0.1: no test reaches further.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.wandb_files import read_run, read_runs
from tests.support.wandb_server import WandbServer
from vae.runs import wandb_run
from vae.runs.tracking import Tracker, truncate_metrics
from vae.runs.wandb_run import WandbConfig, resolve_mode
from vae.utils.errors import UserError

OFFLINE = WandbConfig(
    mode="offline",
    project="faces",
    entity=None,
    group="beta",
    name="beta=0.001",
    tags=["celeba", "test"],
    log_model=False,
)
AUTO = replace(OFFLINE, mode="auto")
ONLINE = replace(OFFLINE, mode="online")
CONFIG: dict[str, Any] = {
    "model": {"latent_dim": 16, "channels": [32, 64]},
    "loss": {"beta": 1e-3},
    "resume": None,
}


@pytest.fixture(autouse=True)
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without W&B's keys and settings, and on which W&B knows 127.0.0.1 alone."""
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    forget_settings()
    yield
    forget_settings()


def forget_settings() -> None:
    """wandb reads the environment once in a process, unless it is torn down."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", server.key)
        yield server


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "samples.png"
    Image.new("RGB", (8, 8), (200, 100, 50)).save(path)
    return path


ROWS = [
    {"step": 10, "epoch": 1, "images": 80, "train/loss": 0.75, "val/bpd": 5.0, "val/psnr": 12.0},
    {"step": 20, "epoch": 2, "images": 160, "train/loss": 0.5, "val/bpd": 3.5, "val/psnr": 18.0},
    {"step": 30, "epoch": 3, "images": 240, "train/loss": 0.25, "val/bpd": 4.0, "val/psnr": 15.0},
]


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`; fails on what is not JSON, such as NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def said(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """The tracker's own log messages, without those of wandb."""
    records = [record for record in caplog.records if record.name == wandb_run.__name__]
    return [record.getMessage() for record in records if record.levelno >= level]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return said(caplog, logging.WARNING)


def test_an_offline_run_holds_every_row(tmp_path: Path, picture: Path) -> None:
    with Tracker(tmp_path / "run", OFFLINE, CONFIG, job_type="evaluate") as tracker:
        for row in ROWS:
            tracker.log(row)
        tracker.report({"step": 31}, {"figures/samples": picture})
        tracker.summarise({"status": "finished", "best/step": 20})
        tracker.log_model(picture)  # not asked for

    run = read_run(tmp_path / "run")
    assert run.id == tracker.run_id
    assert (run.project, run.group, run.name) == ("faces", "beta", "beta=0.001")
    assert (run.job_type, run.tags) == ("evaluate", ["celeba", "test"])
    assert run.config == CONFIG
    assert run.metric_rows == metric_rows(tmp_path / "run") == ROWS
    assert run.step_metrics["*"] == run.step_metrics["val/bpd"] == "step"
    assert run.pictures["figures/samples"].read_bytes() == picture.read_bytes()
    assert run.rows[-1]["step"] == 31
    assert run.artifacts == []
    assert run.exit_code == 0

    # The best and the last of what can be better or worse, the last of the others.
    assert run.summary["val/bpd"] == {"min": 3.5, "last": 4.0}
    assert run.summary["val/psnr"] == {"max": 18.0, "last": 15.0}
    assert run.summary["train/loss"] == 0.25
    assert (run.summary["status"], run.summary["best/step"]) == ("finished", 20)


def test_the_model_is_an_artifact_when_asked_for(tmp_path: Path, picture: Path) -> None:
    with Tracker(tmp_path / "run", replace(OFFLINE, log_model=True), CONFIG) as tracker:
        tracker.log_model(picture)
    assert read_run(tmp_path / "run").artifacts == [(f"model-{tracker.run_id}", "model")]


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(ValueError("nan"), 1), (KeyboardInterrupt(), 1), (SystemExit(3), 1), (SystemExit(0), 0)],
)
def test_an_exception_marks_the_run_as_failed(
    tmp_path: Path, error: BaseException, exit_code: int
) -> None:
    def train() -> None:
        with Tracker(tmp_path, OFFLINE, CONFIG) as tracker:
            tracker.log(ROWS[0])
            raise error

    with pytest.raises(type(error)):
        train()
    run = read_run(tmp_path)
    assert run.exit_code == exit_code
    assert run.metric_rows == ROWS[:1]


def test_runs_in_one_process_share_nothing(tmp_path: Path) -> None:
    def process() -> dict[str, Any]:
        return {
            "excepthook": sys.excepthook,
            "exit": sys.exit,
            "environment": dict(os.environ),
            "handlers": [list(logging.getLogger(name).handlers) for name in ("", "vae")],
            "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
            "streams": [sys.stdout, sys.stderr, sys.stdout.write, sys.stderr.write],
        }

    before = process()
    ids = set()
    for number in range(3):
        with Tracker(tmp_path / str(number), OFFLINE, {"model": {"latent_dim": number}}) as tracker:
            tracker.log({"step": number, "val/bpd": float(number)})
            assert process() == before
        ids.add(tracker.run_id)
        assert process() == before

    assert len(ids) == 3
    for number in range(3):
        run = read_run(tmp_path / str(number))
        assert run.config == {"model": {"latent_dim": number}}
        assert run.metric_rows == [{"step": number, "val/bpd": number}]
        assert run.summary["val/bpd"] == {"min": number, "last": number}


def test_nested_runs_are_separate(tmp_path: Path) -> None:
    with Tracker(tmp_path / "a", OFFLINE, CONFIG) as outer:
        with Tracker(tmp_path / "b", OFFLINE, CONFIG) as inner:
            inner.log(ROWS[1])
        outer.log(ROWS[0])
    assert read_run(tmp_path / "a").metric_rows == ROWS[:1]
    assert read_run(tmp_path / "b").metric_rows == ROWS[1:2]


def test_disabled_does_not_import_wandb(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from vae.runs.tracking import Tracker
from vae.runs.wandb_run import WandbConfig, resolve_mode
settings = WandbConfig("disabled", "faces", None, None, None, [], True)
resolve_mode(settings.mode)
with Tracker(Path({str(tmp_path)!r}), settings, {{}}) as tracker:
    tracker.log({{"step": 1, "val/bpd": 2.5}})
    tracker.report({{"step": 1}}, {{"figures/samples": Path("nowhere.png")}})
    tracker.summarise({{"status": "finished"}})
    tracker.log_model(Path("nowhere.pt"))
assert tracker.run_id is None
assert "wandb" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert metric_rows(tmp_path) == [{"step": 1, "val/bpd": 2.5}]
    assert not (tmp_path / "wandb").exists()


def test_auto_without_a_key_is_offline_with_a_notice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a run"
    resolve_mode("auto")
    with caplog.at_level(logging.INFO), Tracker(folder, AUTO, CONFIG) as tracker:
        tracker.log(ROWS[0])
    run = read_run(folder)
    assert run.metric_rows == ROWS[:1]
    assert said(caplog) == [f"W&B is offline; to upload this run: wandb sync '{run.folder}'"]
    assert capfd.readouterr() == ("", "")


def test_auto_respects_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: WandbServer
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Tracker(tmp_path / "a", AUTO, CONFIG):
        pass
    assert read_run(tmp_path / "a").exit_code == 0

    monkeypatch.setenv("WANDB_MODE", "disabled")
    forget_settings()
    with Tracker(tmp_path / "b", AUTO, CONFIG) as tracker:
        tracker.log(ROWS[0])
    assert not (tmp_path / "b" / "wandb").exists()
    assert metric_rows(tmp_path / "b") == ROWS[:1]
    assert server.runs == {}


def test_auto_with_a_key_is_online(
    tmp_path: Path,
    server: WandbServer,
    picture: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
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
    rows = [{k: v for k, v in row.items() if k[0] != "_"} for row in run.history]
    assert rows[:3] == ROWS
    assert rows[3]["step"] == 30
    sent = run.files[rows[3]["figures/samples"]["path"]]
    assert sent == picture.read_bytes()
    assert run.summary["val/bpd"] == {"min": 3.5, "last": 4.0}
    assert run.summary["status"] == "finished"
    assert run.exit_code == 0
    assert server.unknown == []

    printed = capfd.readouterr().err
    assert len(printed.splitlines()) <= 2
    assert said(caplog) == [f"W&B run: {server.url}/tester/faces/runs/{run_id}"]
    assert server.key not in printed + caplog.text


def test_a_failed_run_is_failed_on_the_server(tmp_path: Path, server: WandbServer) -> None:
    with pytest.raises(ValueError, match="loss"), Tracker(tmp_path, ONLINE, CONFIG, run_id="r1"):
        raise ValueError("loss is nan")
    assert server.runs["r1"].exit_code == 1


def test_online_without_a_key_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wandb\.mode.*`wandb login`.*wandb\.mode=offline"):
        resolve_mode("online")
    with pytest.raises(UserError, match="online"), Tracker(tmp_path / "run", ONLINE, CONFIG):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variable", ["WANDB_MODE", "WANDB_BASE_URL"])
def test_settings_refused_by_wandb_are_user_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "nonsense")
    with pytest.raises(UserError, match=r"WANDB_.*nonsense"), Tracker(tmp_path / "a", AUTO, {}):
        pass
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("source", ["environment", "netrc", "home", "identity token"])
def test_a_key_is_found_where_wandb_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    if source == "environment":
        monkeypatch.setenv("WANDB_API_KEY", WandbServer.key)
    elif source == "identity token":
        monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    else:
        entry = f"machine 127.0.0.1:9 login user password {WandbServer.key}\n"
        path = tmp_path / ("netrc" if source == "netrc" else ".netrc")
        path.write_text(f"machine elsewhere login user password x\n{entry}")
        path.chmod(0o600)
        if source == "home":
            monkeypatch.delenv("NETRC")
    resolve_mode("online")


def test_a_key_for_another_server_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    with pytest.raises(UserError):
        resolve_mode("online")


@pytest.mark.parametrize("door", ["closed", "silent"])
def test_an_unreachable_server_costs_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, door: str
) -> None:
    monkeypatch.setattr(wandb_run, "REACH_TIMEOUT", 0.3)
    monkeypatch.setattr(wandb_run, "INIT_TIMEOUT", 90.0)  # which wandb itself would take
    monkeypatch.setenv("WANDB_API_KEY", WandbServer.key)
    with socket.create_server(("127.0.0.1", 0)) as listening:  # but nobody accepts
        url = "http://127.0.0.1:{}".format(listening.getsockname()[1] if door == "silent" else 9)
        monkeypatch.setenv("WANDB_BASE_URL", url)
        begin = time.monotonic()
        with Tracker(tmp_path, ONLINE, CONFIG, run_id="resumed1") as tracker:
            tracker.log(ROWS[0])
        assert time.monotonic() - begin < 30
    (warning,) = warnings(caplog)
    assert f"{url} cannot be used" in warning
    run = read_run(tmp_path)
    assert (run.id, run.exit_code) == ("resumed1", 0)  # `wandb sync` goes on with that run
    assert tracker.run_id == "resumed1"
    assert run.metric_rows == metric_rows(tmp_path) == ROWS[:1]


@pytest.mark.parametrize("status", [401, 500])
def test_a_server_that_refuses_makes_the_run_offline(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: WandbServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    status: int,
) -> None:
    monkeypatch.setattr(wandb_run, "INIT_TIMEOUT", 1.0)
    server.refuse = status
    with caplog.at_level(logging.INFO), Tracker(tmp_path, AUTO, CONFIG, run_id="taken") as tracker:
        tracker.log(ROWS[0])
    warning, how_to_upload = said(caplog)
    assert "cannot be used" in warning
    run = read_run(tmp_path)
    assert str(run.folder) in how_to_upload
    assert run.id == tracker.run_id != "taken"
    assert run.metric_rows == ROWS[:1]
    assert server.key not in capfd.readouterr().err + caplog.text


def test_a_lost_connection_does_not_block_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: WandbServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(wandb_run, "FINISH_TIMEOUT", 1.0)
    with Tracker(tmp_path, AUTO, CONFIG) as tracker:
        server.stop()
        begin = time.monotonic()
        for row in ROWS:
            tracker.log(row)
        assert time.monotonic() - begin < 5
    assert time.monotonic() - begin < 30  # wandb tries for minutes
    (warning,) = warnings(caplog)
    assert f"wandb sync --include-online {tmp_path}/wandb/run-" in warning
    assert metric_rows(tmp_path) == ROWS


def test_wandb_errors_are_warned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(wandb.Run, "log", fail)
    with Tracker(tmp_path, OFFLINE, CONFIG) as tracker:
        for row in ROWS:
            tracker.log(row)
        for _ in range(2):
            tracker.report({"step": 30}, {"figures/samples": tmp_path / "missing.png"})
        monkeypatch.setattr(wandb.Run, "finish", fail)
    assert len(warnings(caplog)) == 3  # a row, a picture, the end
    assert all("Training continues" in warning for warning in warnings(caplog))
    assert metric_rows(tmp_path) == ROWS
    monkeypatch.undo()


def test_metrics_are_written_if_wandb_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", WandbServer.key)

    def fail(**_: Any) -> None:
        raise OSError(f"no space left for {WandbServer.key}")

    monkeypatch.setattr(wandb, "init", fail)
    with Tracker(tmp_path, OFFLINE, CONFIG) as tracker:
        tracker.log(ROWS[0])
        tracker.summarise({"status": "finished"})
    assert tracker.run_id is None
    (warning,) = warnings(caplog)
    assert "no space left for …" in warning  # the key is shown to nobody
    assert metric_rows(tmp_path) == ROWS[:1]


def test_a_resumed_run_appends_to_its_files(tmp_path: Path) -> None:
    with Tracker(tmp_path, OFFLINE, CONFIG) as first:
        first.log(ROWS[0])
        first.log(ROWS[1])
    truncate_metrics(tmp_path / "metrics.jsonl", 10)
    time.sleep(1)  # wandb names a run's folder by the second
    with Tracker(tmp_path, OFFLINE, CONFIG, run_id=first.run_id) as second:
        second.log(ROWS[1])
    assert second.run_id == first.run_id
    assert metric_rows(tmp_path) == ROWS[:2]
    assert [run.id for run in read_runs(tmp_path)] == [first.run_id] * 2


def test_truncate_metrics_drops_later_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    truncate_metrics(path, 5)
    assert not path.exists()

    lines = [json.dumps(row) + "\n" for row in ROWS]
    path.write_text("".join(lines) + '{"step": 3')  # torn: and were it whole, it would be kept
    truncate_metrics(path, 20)
    assert path.read_text() == "".join(lines[:2])
    truncate_metrics(path, 20)
    assert path.read_text() == "".join(lines[:2])
    path.write_text(lines[0] + lines[1].rstrip("\n"))  # only the line's end is missing
    truncate_metrics(path, 20)
    assert path.read_text() == "".join(lines[:2])
    assert list(tmp_path.iterdir()) == [path]


def test_a_repeated_validation_is_logged_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 4, "train/loss": 1.0}, {"step": 4, "val/loss": 1.0}]
    rows += [{"step": 8, "train/loss": 1.0}, {"step": 8, "val/loss": 1.0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    truncate_metrics(path, 8, measured=True)
    assert metric_rows(tmp_path) == rows
    truncate_metrics(path, 8, measured=False)
    assert metric_rows(tmp_path) == rows[:3]


def test_unparsable_rows_are_dropped(tmp_path: Path) -> None:
    steps = ("null", '"x"', "NaN", "[]", "9" * 5000)
    rows = [f'{{"step": {step}}}' for step in steps] + ["[" * 100_000, "null"]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*rows, '{"step": 2}']))
    truncate_metrics(tmp_path / "metrics.jsonl", 5)
    assert metric_rows(tmp_path) == [{"step": 2}]


def test_truncate_metrics_leaves_the_file_whole_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')

    def fail(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        truncate_metrics(path, 1)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mode", "onlin"),
        ("project", ""),
        ("project", "faces/vae"),
        ("tags", [""]),
        ("tags", ["x" * 65]),
        ("tags", [{"a": 1}]),
    ],
)
def test_settings_are_checked(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"wandb\.{key}: got "):
        replace(OFFLINE, **{key: value})
