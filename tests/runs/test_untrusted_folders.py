"""Folders of runs and sweeps that come from somebody else: links, pipes, places of data."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support.fake_sweeps import make_sweep
from tests.support.train_command import TINY, call_train
from vae.cli.main import main
from vae.runs.checkpoint import load_checkpoint, save_checkpoint
from vae.runs.load import load_run
from vae.runs.run_dir import RUN_ENTRIES, require_own_place
from vae.runs.wandb_settings import resolve_mode
from vae.utils.errors import UserError

OF_RUN = [
    *("evaluate", "sample", "reconstruct", "interpolate", "traverse", "export"),
    *("edit --attribute Smiling", "resume"),
]
NAMES = [  # that a run folder may have, whether or not this one has them
    *(".hydra/config.yaml", ".hydra/accepted.yaml", ".lock", "train.log", "metrics.jsonl"),
    *("summary.json", "metrics.json", "checkpoints/last.pt", "checkpoints/previous.pt"),
    *("directions/last.npz", "figures/val/samples.png", "edited/x.png", "export/encoder.pt2"),
    *("wandb/offline-run-1-x/run-x.wandb", "wandb/offline-run-1-x/logs/debug.log"),
    *("samples_standard/00000.png", "priors/last.npz"),
]


def put_pipe(path):
    """Put a named pipe in the place of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def put_link(path):
    """Put a link to the same content in the place of a file or folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = Path("victim").absolute()
    shutil.move(path, target) if path.exists() else target.touch()
    path.symlink_to(target)


def refused(command, folder, monkeypatch, capsys):
    """Run a command on a folder; return its message."""
    if command == "resume":
        code, _, err = call_train([f"resume={folder}"], Path.cwd(), monkeypatch, capsys)
    else:
        name, *options = command.split()
        code, err = main([name, str(folder), *options]), capsys.readouterr().err
    assert code == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("put", [put_pipe, put_link])
def test_a_run_with_links_out_of_it_or_pipes_is_refused(put, finished, tmp_path):
    what = "is a pipe" if put is put_pipe else f"is a link to {tmp_path}/victim, outside of"
    for name in NAMES:
        run = Path(shutil.copytree(finished, "copy"))
        put(run / name)
        with pytest.raises(UserError, match=f"copy/{name}: {what}"):
            load_run(run)
        shutil.rmtree(run)


@pytest.mark.parametrize(
    ("command", "name", "put"),
    [*zip(OF_RUN, NAMES[:16:2], [put_pipe, put_link] * 4, strict=True)],
)
def test_no_command_uses_such_a_run(command, name, put, finished, monkeypatch, capsys):
    put(finished / name)
    before = {path: path.lstat().st_mtime_ns for path in finished.rglob("*")}
    said = refused(command, finished, monkeypatch, capsys)
    assert f"run/{name}: is a {'pipe' if put is put_pipe else 'link'}" in said
    assert {path: path.lstat().st_mtime_ns for path in finished.rglob("*")} == before


def test_commands_write_entries_of_a_run_alone(finished, monkeypatch):
    """The links among other files of its folder are left alone."""
    monkeypatch.setattr("vae.evaluation.flow.LAYERS", 1)
    sample = "sample --separate --num 1 --prior flow"
    for command in (sample, "traverse", "interpolate", "export"):
        name, *options = command.split()
        assert main([name, str(finished), *options]) == 0
    written = [str(path.relative_to(finished)) for path in finished.rglob("*")]
    assert "priors/last.npz" in written
    assert [name for name in written if not re.fullmatch(RUN_ENTRIES, name)] == []


def test_links_to_folders_are_refused_and_links_within_are_not(finished):
    (finished / "figures" / "again").symlink_to("../checkpoints")
    load_run(finished)
    for name in ("figures", "checkpoints", ".hydra"):
        put_link(finished / name)
        with pytest.raises(UserError, match=f"run/{name}: is a link to .*victim, outside of"):
            load_run(finished)
        (finished / name).unlink()
        shutil.move("victim", finished / name)
    shutil.move(finished, "elsewhere")
    finished.symlink_to("elsewhere")  # the user's own: a name for a run
    load_run(finished)


@pytest.mark.parametrize("put", [put_pipe, put_link])
def test_a_sweep_with_links_out_of_it_or_pipes_is_refused(put, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep = tmp_path / "sweep"
    make_sweep(sweep, [{"loss.beta": beta} for beta in (1e-4, 1e-3)])
    for name in ("sweep.json", "loss.beta=0.001/summary.json", "loss.beta=0.001/train.log"):
        run = Path(shutil.copytree(sweep, "copy"))
        put(run / name)
        for command in ("compare", "dashboard --json"):
            said = refused(command, run, monkeypatch, capsys)
            assert f"copy/{name}: is a " in said
        if name == "sweep.json":
            again = ["-m", *TINY, "loss.beta=0.1,0.2", "hydra.sweep.dir=copy"]
            code, _, err = call_train(again, tmp_path, monkeypatch, capsys)
            assert code == 1
            assert f"copy/{name}: is a " in err
            assert not list(run.glob("loss.beta=0.1*"))
        shutil.rmtree(run)


def test_a_new_run_is_not_started_in_a_folder_with_links(tmp_path, monkeypatch, capsys):
    """But where a run writes nothing there may be any, as in a repository."""
    (tmp_path / "victim").write_text("mine\n")
    run = tmp_path / "run"
    for name in (".venv/bin/python", "dataset", "a.tmp"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).symlink_to(tmp_path / "victim")
    os.mkfifo(run / ".venv" / "pipe")
    for name in ("train.log", ".lock", "Checkpoints", "wandb/debug.log"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).symlink_to(tmp_path / "victim")
        for more in ([], ["resume=auto"]):
            code, _, err = call_train([*TINY, "hydra.run.dir=.", *more], run, monkeypatch, capsys)
            assert code == 1
            assert f"{name}: is a link to" in err
        (run / name).unlink()
    assert (tmp_path / "victim").read_text() == "mine\n"
    code, _, err = call_train([*TINY, "hydra.run.dir=."], run, monkeypatch, capsys)
    assert code == 0, err


@pytest.fixture
def elsewhere(finished, tmp_path_factory):
    """A folder outside of the current one, as `data.root` of the finished run."""
    place = tmp_path_factory.mktemp("elsewhere") / "data"
    last = finished / "checkpoints" / "last.pt"
    state = load_checkpoint(last)
    state["config"]["data"]["root"] = str(place)
    save_checkpoint(last, state)
    accepted = finished / ".hydra" / "accepted.yaml"
    accepted.write_text(accepted.read_text() + f"- data.root={place}\n")
    return place


def test_a_run_does_not_choose_where_images_are_packed(elsewhere, finished, monkeypatch, capsys):
    """Where something is packed already is a place of the user's, and what he names."""
    for command in ("evaluate --wandb disabled", "edit --list", "resume"):
        said = refused(command, finished, monkeypatch, capsys)
        assert f"data.root: {elsewhere} is outside the current folder and has no packed" in said
        assert f"data.root={elsewhere}" in said
    assert main(["sample", "run"]) == 0  # without images
    Path("link").mkdir()
    Path("link", "cache").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"data\.root: link is outside"):
        require_own_place(Path("link"))
    assert not elsewhere.exists()
    assert len(load_run(finished, overrides=["data.root=data"]).data.images["val"])
    assert len(load_run(finished, overrides=[f"data.root={elsewhere}"]).data.images["val"])
    assert len(load_run(finished).data.images["val"])


@pytest.mark.parametrize("name", [".hydra/config.yaml", "multirun.yaml"])
def test_a_folder_does_not_choose_the_server_of_wandb(name, tmp_path, monkeypatch):
    """W&B reads such settings in the current folder."""
    monkeypatch.chdir(tmp_path)
    for file in (name, "wandb/settings"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    for mode in ("auto", "offline"):
        with pytest.raises(UserError, match=r"wandb/settings: .*API key"):
            resolve_mode(mode)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir("below")
    assert resolve_mode("offline") == "offline"
