"""Seeds, rungs and a constraint on the command line, with runs that train nothing."""

import pytest
from omegaconf import OmegaConf

import train
from tests.support.train_command import TINY, call_train
from vae.runs.overrides import quote_constraint
from vae.runs.run_dir import write_summary
from vae.sweeps.comparison import read_sweep
from vae.utils.files import read_json, write_json
from vae.utils.registry import run_metrics

STUDY = ["hydra/sweeper=study", "loss.beta=interval(0.1,1)", "hydra.sweeper.n_trials=2"]


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """Run a sweep named s; (exit code, stderr, names of the runs that were trained now)."""
    trained = []

    def run_trial(config, folder, logs):
        if not (folder / "summary.json").exists():
            trained.append(folder.name)
        final = dict.fromkeys(run_metrics(), config.loss.beta + config.seed)
        write_summary(folder, {"status": "finished", "final": final})
        return final

    def call(*arguments):
        trained.clear()
        monkeypatch.setattr(train, "run_trial", run_trial)
        monkeypatch.setattr("vae.sweeps.report.draw_charts", lambda *_: None)
        given = ["-m", *TINY, "sweep.name=s", *arguments]
        code, out, err = call_train(given, tmp_path, monkeypatch, capsys)
        assert "Traceback" not in out + err, err
        return code, err, sorted(trained)

    return call


def test_a_grid_has_a_run_for_each_seed(sweep, tmp_path):
    """The first seed's run is the one of a sweep with one seed: more seeds only add runs."""
    grid = ["loss.beta=0.1,0.2", "seed=7"]
    assert sweep(*grid)[2] == ["loss.beta=0.1", "loss.beta=0.2"]
    added = [f"loss.beta={beta},seed={seed}" for beta in (0.1, 0.2) for seed in (8, 9)]
    code, _, trained = sweep(*grid, "sweep.seeds=3")
    assert (code, trained) == (0, added)
    assert sweep(*grid, "sweep.seeds=3")[2] == []
    assert [point.n for point in read_sweep(tmp_path / "multirun/s").points] == [3, 3]
    code, err, trained = sweep("loss.beta=0.1,0.2", "seed=5", "sweep.seeds=3")
    assert (code, trained) == (1, [])
    assert "multirun/s is a sweep with seed=7, and it is 5 now" in err


def test_seeds_that_are_added_on_the_command_line_repeat_no_run(sweep):
    assert sweep("loss.beta=0.1,0.2", "seed=7")[2] == ["loss.beta=0.1", "loss.beta=0.2"]
    added = [f"loss.beta={beta},seed={seed}" for beta in (0.1, 0.2) for seed in (8, 9)]
    assert sweep("loss.beta=0.1,0.2", "seed=7,8,9")[2] == added
    assert sweep("loss.beta=0.1,0.2", "seed=7", "sweep.seeds=3")[2] == []


def test_seeds_of_the_command_line_keep_their_names(sweep):
    assert sweep("loss.beta=0.1", "seed=0,1")[2] == ["seed=0", "seed=1"]
    assert sweep("loss.beta=0.1", "sweep.seeds=3")[2] == ["seed=2"]
    assert sweep("loss.beta=0.1", "sweep.seeds=4")[2] == ["seed=3"]


def test_a_study_has_a_run_for_each_seed(sweep, tmp_path):
    code, _, trained = sweep(*STUDY, "sweep.seeds=2", "seed=3")
    assert (code, len(trained)) == (0, 4)
    betas = sorted({name.split(",")[0] for name in trained})
    assert trained == sorted([*betas, *(f"{beta},seed=4" for beta in betas)])
    results = OmegaConf.load(tmp_path / "multirun/s/optimization_results.yaml")
    beta = results.best_params["loss.beta"]
    assert results.best_value == pytest.approx(beta + 3.5)
    assert results.best_runs == [f"loss.beta={beta:.6g}", f"loss.beta={beta:.6g},seed=4"]
    assert sweep(*STUDY, "sweep.seeds=2", "seed=3")[2] == []


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (["sweep.seeds=2"], [], "error: sweep.seeds: the study's trials have 2, and it is 1"),
        ([], ["sweep.constraint=val/rate <= 2"], "error: sweep.constraint: the study's trials"),
        ([], ["sweep.rungs=[1]"], "error: sweep.rungs: the study's trials have None, and it is"),
        (["sweep.rungs=[1]"], ["sweep.rungs=[2]"], "error: sweep.rungs: the study's trials"),
        (
            ["sweep.rungs=[1]"],
            ["sweep.rungs=[1]", "trainer.epochs=6"],
            "error: trainer.epochs: the study's trials have 4, and it is 6 now",
        ),
    ],
)
def test_a_study_keeps_its_settings(before, now, words, sweep):
    epochs = ["trainer.epochs=4", "trainer.max_steps=null"]
    assert sweep(*STUDY, *epochs, *before)[0] == 0
    code, err, trained = sweep(*STUDY, *epochs, *now, "hydra.sweeper.n_trials=4")
    assert (code, trained) == (1, [])
    assert words in err


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_study_itself_knows_its_settings(elsewhere, sweep, tmp_path):
    """For hosts with other folders; and a sweep of an earlier version has no record of them."""
    shared = [*STUDY, f"sweep.storage=sqlite:///{tmp_path}/shared.db"]
    assert sweep(*shared)[0] == 0
    folder = tmp_path / "multirun/s"
    if elsewhere:
        folder.rename(tmp_path / "other")
    else:
        record = read_json(folder / "sweep.json")
        del record["search"]
        write_json(folder / "sweep.json", record)
    code, err, trained = sweep(*shared, "sweep.seeds=3", "hydra.sweeper.n_trials=4")
    assert (code, trained) == (1, [])
    assert "sweep.seeds: the study's trials have 1, and it is 3 now" in err
    assert sweep(*shared, "hydra.sweeper.n_trials=3")[0] == 0


def test_a_constraint_may_be_spaced_in_another_way(sweep):
    assert sweep(*STUDY, "sweep.constraint=val/rate<=2")[0] == 0
    assert sweep(*STUDY, "sweep.constraint=val/rate  <=  2.0")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=0,1", "sweep.seeds=2"], "seed: it is swept, and sweep.seeds=2 sets it"),
        (["loss.beta=1,2", "sweep.rungs=[1]"], "sweep.rungs: got [1], but a grid trains"),
        ([*STUDY, "sweep.rungs=[3,2]"], "sweep.rungs: got [3, 2], but it takes epochs, asc"),
        ([*STUDY, "sweep.rungs=[0,2]"], "sweep.rungs: got [0, 2], but it takes epochs, asc"),
        (
            [*STUDY, "sweep.rungs=[2]", "sweep.pruner=median"],
            "sweep.pruner: got 'median' beside sweep.rungs=[2]",
        ),
        (
            [*STUDY, "sweep.seeds=2", "sweep.pruner=hyperband"],
            "sweep.pruner: got 'hyperband' beside sweep.seeds=2",
        ),
        (
            [*STUDY, "sweep.rungs=[1]", "objective=[val/rate,val/mse]"],
            "sweep.rungs: got [1], but with several objectives",
        ),
        (["loss.beta=1,2", "sweep.seeds=0"], "sweep.seeds: got 0"),
        (
            ["loss.beta=1,2", "sweep.constraint=val/rate < 2"],
            "sweep.constraint: got 'val/rate < 2'",
        ),
        (["loss.beta=1,2", "sweep.seeds=2", "seed=4294967295"], "seed: got 4294967295, but it"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_settings_that_do_not_fit_are_refused_before_a_run(arguments, words, sweep, tmp_path):
    code, err, trained = sweep(*arguments)
    assert (code, trained) == (1, [])
    assert words in err
    assert not (tmp_path / "multirun").exists()


def test_rungs_are_below_the_end_of_the_run(sweep):
    code, err, _ = sweep(*STUDY, "trainer.epochs=3", "sweep.rungs=[1,3]")
    assert code == 1
    assert "sweep.rungs: got [1, 3], but it takes epochs below trainer.epochs" in err


def test_a_constraint_is_recorded_as_it_was_given(sweep, tmp_path):
    """The shell removes its quotes, which Hydra's grammar needs."""
    code, err, _ = sweep("loss.beta=0.1,0.2", "sweep.constraint=val/rate <= 0.15")
    assert code == 0, err
    folder = tmp_path / "multirun/s"
    assert read_json(folder / "sweep.json")["search"]["constraint"] == ["val/rate <= 0.15"]
    comparison = read_sweep(folder)
    assert comparison.best.value("loss.beta") == 0.1
    assert [comparison.is_feasible(point) for point in comparison.points] == [True, False]


@pytest.mark.parametrize(
    "given", ["sweep.constraint='val/rate <= 2'", "sweep.constraint=null", "-m"]
)
def test_other_words_are_left_as_they_are(given):
    assert quote_constraint([given]) == [given]
