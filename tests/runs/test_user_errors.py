"""User errors: one message that names the key, no traceback, no new files."""

import pytest

from tests.support.train_command import TINY, call_train, run_train
from vae.runs.run_dir import read_summary


def assert_refused(result, folder, *words):
    code, out, err = result
    assert code != 0
    for word in words:
        assert word in err, err
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) <= 20, err  # all choices of a group among them
    left = sorted(p.name for p in folder.iterdir() if p.name != "home")
    assert left == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.latent_dmi=3"], ["latent_dmi", "model"]),
        (["+model.latent_dmi=3"], ["model.latent_dmi", "latent_dim"]),
        (["modle=conv"], ["modle"]),
        (["experiment=exp_10"], ["experiment/exp_10", "exp_01_baseline"]),
        (["model.latent_dim=abc"], ["model.latent_dim", "abc", "Integer"]),
        (["model.latent_dim=null"], ["latent_dim"]),
        (["data.batch_size=1000"], ["data.batch_size: got 1000", "64"]),
        (["objective=val/loss"], ["objective: got 'val/loss'", "beta"]),
        (["wandb.mode=online"], ["wandb", "login"]),
        (["data=folder"], ["data.path"]),
        (["data=folder", "data.path=nowhere"], ["data.path", "nowhere"]),
        (["data=celeba", "data.path=nowhere"], ["nowhere", "img_align_celeba"]),
        (["resume=nowhere"], ["resume", "nowhere"]),
        (["resume="], ["resume: got ''", "auto"]),
        (["hydra.job.name=a/b"], ["hydra.job.name: got 'a/b'"]),
        (["hydra.run.dir=${nope}"], ["hydra.run.dir: ", "nope"]),
        (["--experimental-rerun=run"], ["--experimental-rerun", "resume=FOLDER"]),
        (["~resume"], ["resume: needs a value"]),
        (["hydra.output_subdir=null"], ["hydra.output_subdir: got None", ".hydra"]),
        (["hydra.output_subdir=.cfg"], ["hydra.output_subdir: got '.cfg'", ".hydra"]),
        (["optimizer.lr=${nope}"], ["optimizer.lr: ", "nope"]),
        (["experiment=null"], ["experiment: got null", "debug"]),
        (["loss.beta=-" + "1_" * 200], ["loss.beta=-1_", "400 digits"]),
        (["data.batch_size=" + "9" * 5000], ["data.batch_size=9999", "5000 digits"]),
        (["seed=range(0,1000000000000)"], ["seed: got 'range(", "1 to 100000 values"]),
        (["latent_dim=64"], ["latent_dim: there is no such key. Did you mean model.latent_dim?"]),
        (["epochs=3"], ["loss.schedule.epochs", "or trainer.epochs?"]),
        (["hydra=1"], ["hydra: got 1. Leave it out."]),
        (["hydra/launcher=5"], ["hydra/launcher: got 5. Leave it out.\n"]),
        (["model=[1]"], ["model: got [1]", "conv, residual"]),
        (["-m", "model=conv,5"], ["model: got conv,5", "conv, residual"]),
        (["-m", "hydra.sweep.subdir=${nope}"], ["error: ", "'nope'", "hydra.sweep.subdir"]),
        (["--cfg=job", "-m"], ["error: Only one of", "--cfg"]),
        (["--cfg=hydra", "--resolve"], ["error: ", "'sweep.name'", "hydra.sweep.dir"]),
        (["hydra.verbose=7"], ["hydra.verbose: got 7"]),
        (["=1"], ["=1: got", "KEY=VALUE"]),
        (['data.root="a\nb"'], [r"data.root: got 'a\nb'", "control characters"]),
        (['hydra.run.dir="a\u2028"'], [r"hydra.run.dir: got 'a\u2028'", "control characters"]),
        (["optimizer.betas=${seed}"], ["optimizer.betas: ", "int"]),
    ],
    ids=lambda value: " ".join(value)[:40] if "=" in value[0] else "",
)
def test_mistakes_in_the_configuration(overrides, words, tmp_path, monkeypatch, capsys):
    base = TINY
    if overrides[0].startswith("data="):  # drawing has keys that the others have not
        keys = ("experiment", "data.num_images")
        base = ["wandb.mode=disabled", *(o for o in TINY if not o.startswith(keys))]
    result = call_train([*base, *overrides], tmp_path, monkeypatch, capsys)
    assert_refused(result, tmp_path, *words)


def test_as_a_process_too(tmp_path):
    """The exit code and the silence are the process's own, and the escapes of its terminal."""
    done = run_train([*TINY, "objective='β'"], tmp_path, PYTHONIOENCODING="ascii")
    result = done.returncode, done.stdout, done.stderr
    assert_refused(result, tmp_path, r"objective: got '\u03b2'")


def test_a_refused_run_leaves_no_log_in_a_folder_with_other_files(tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    arguments = [*TINY, "hydra.run.dir=.", "hydra.job.name=foo", "loss.beta=-1"]
    assert call_train(arguments, tmp_path, monkeypatch, capsys)[0] != 0
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["notes.txt"]


def test_in_a_sweep_one_bad_value_costs_one_run(tmp_path, monkeypatch, capsys):
    arguments = ["-m", *TINY, "loss.beta=-1,0.1", "sweep.name=s", "hydra.job.chdir=true"]
    code, out, err = call_train(arguments, tmp_path, monkeypatch, capsys)
    assert code != 0
    assert "loss.beta: got -1" in err
    assert "Traceback" not in out + err
    sweep = tmp_path / "multirun" / "s"
    assert read_summary(sweep / "loss.beta=0.1")["status"] == "finished"
    failed = read_summary(sweep / "loss.beta=-1")
    assert failed["status"] == "failed"
    assert "loss.beta: got -1" in failed["error"]
    left = sorted(path.name for path in (sweep / "loss.beta=-1").iterdir())
    assert left == [".hydra", "summary.json", "train.log"]
    assert list(tmp_path.rglob("cache")) == [tmp_path / "data" / "cache"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep=beta"], ["sweep=beta is many runs: python train.py -m sweep=beta"]),
        (["sweep='beta'"], ["sweep=beta is many runs: python train.py -m"]),
        (["-m", "resume=auto"], ["resume: takes one run. Leave out -m."]),
        (["-m", "hydra.output_subdir=.x"], ["hydra.output_subdir: got '.x'", ".hydra"]),
        (["-m", "hydra.sweep.subdir=a/${seed}"], ["hydra.sweep.subdir: got 'a/"]),
        (["-m", "sweep=bta"], ["sweep/bta", "beta", "optuna"]),
        (["-m", "sweep=optuna", "objective=val/loss"], ["objective: got 'val/loss'", "beta"]),
        (["-m", "loss.beta=0.1,0.2", "objective=val/fid"], ["objective: got 'val/fid'"]),
        (["-m", "sweep=optuna", "sweep.storage=sqlite:////nowhere/x.db"], ["sweep.storage"]),
        (["-m", "sweep=optuna", "sweep.storage=nosql://x"], ["sweep.storage", "nosql"]),
        (["-m", "sweep=optuna", "sweep.pruner=mean"], ["sweep.pruner: got 'mean'", "median"]),
        (["-m", "sweep=optuna", "sweep.name=a/b"], ["sweep.name: got 'a/b'"]),
        (
            ["-m", "sweep=optuna", "loss.beta=0.1", "model.latent_dim=4"],
            ["hydra.sweeper.params: nothing to search"],
        ),
        (["-m", "sweep=optuna", "hydra.sweeper.n_trils=3"], ["n_trils"]),
        (["-m", "seed=range(0,4,0)"], ["seed: got 'range(0,4,0)'"]),
        (["-m", "model=1,2"], ["model: got 1,2"]),
        (["-m", "seed=1,2", "hydra/sweeper=optuna"], ["hydra/sweeper: got 'optuna'. Take study"]),
        (
            ["-m", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"],
            ["hydra.launcher.n_jobs: got 0, but it takes"],
        ),
        (
            ["-m", "seed=1,2", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=0"],
            ["hydra.launcher.timeout_min: got 0, but it takes"],
        ),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] or "-m" in value else "",
)
def test_mistakes_in_a_sweep(arguments, words, tmp_path, monkeypatch, capsys):
    result = call_train([*arguments, *TINY], tmp_path, monkeypatch, capsys)
    assert_refused(result, tmp_path, *words)
