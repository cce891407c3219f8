"""`sweep.rungs`: trials stop at rungs, and the best are continued, not trained again."""

import math
import multiprocessing
import random
from itertools import count

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from tests.sweeps.test_search import make_search, returned, study_of, trials_of
from vae.runs.config import constraints_of
from vae.runs.run_dir import read_summary, write_summary
from vae.sweeps import rungs as rungs_module
from vae.sweeps.rungs import DUPLICATE, Rungs, enqueue_continuation
from vae.sweeps.study import CONTINUES, RUNG, counted_trials

RUNGS = Rungs([1, 3], 3)
LAST = 9  # epochs of a whole run


def search_in_rungs(folder, interrupt=lambda: None, value=lambda beta, epoch: beta, **options):
    """Search with runs that count the epochs that they train.

    A run's folder remembers its epoch; each epoch is a line in `trained`.
    """

    def launch(overrides, initial_job_idx):
        (job,) = overrides
        values = dict(word.split("=") for word in job)
        beta, end = float(values["loss.beta"]), int(values.get("sweep.stop_at", LAST))
        run = folder / job[0]
        run.mkdir(exist_ok=True)
        epoch = read_summary(run).get("epoch", 0)
        while epoch < end:
            interrupt()
            epoch += 1
            with open(folder / "trained", "a") as file:
                file.write(f"{beta} {epoch}\n")
            status = "finished" if epoch == LAST else "pruned"
            final = {"val/bpd": value(beta, epoch), "val/rate": 1 / beta}
            write_summary(run, {"status": status, "epoch": epoch, "final": final})
        return [returned(run, value(beta, end))]

    make_search(folder, launch, rungs=RUNGS, **options).run()


def trained(folder):
    """(beta, epoch) of each epoch that was trained, in order."""
    lines = (folder / "trained").read_text().splitlines()
    return [(float(beta), int(epoch)) for beta, epoch in map(str.split, lines)]


def check(folder, total):
    """What holds of each finished search in rungs; its trials that count, by their rung."""
    trials = trials_of(folder)
    steps = trained(folder)
    assert len(set(steps)) == len(steps)  # no epoch of a run was trained twice
    new = [t for t in counted_trials(study_of(folder)) if CONTINUES not in t.user_attrs]
    assert len(new) == total
    by_rung = [
        [t for t in counted_trials(study_of(folder)) if t.user_attrs.get(RUNG, 0) == rung]
        for rung in range(3)
    ]
    for rung in (0, 1):
        ended = {t.number: t for t in by_rung[rung]}
        assert {t.state.name for t in by_rung[rung]} == {"PRUNED"}
        assert all(t.last_step == RUNGS.epochs[rung] for t in by_rung[rung])
        # at least a third continues, and who does was in the best third when it was chosen
        continued = [ended[t.user_attrs[CONTINUES]] for t in by_rung[rung + 1]]
        assert len({t.number for t in continued}) == len(continued) >= len(ended) // 3
        third = sorted(ended.values(), key=lambda t: t.value)[: len(ended) // 3]
        assert {t.number for t in third} <= {t.number for t in continued}
    assert {t.state.name for t in by_rung[2]} == {"COMPLETE"}
    assert all(t.state.is_finished() for t in trials)
    return by_rung


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_best_third_is_continued(at_once, tmp_path):
    search_in_rungs(tmp_path, total=20, at_once=at_once)
    rungs = check(tmp_path, 20)
    counts = [len(rung) for rung in rungs]
    assert counts[0] == 20
    # with several workers, one that came late to a rung may join those that were chosen before
    assert 6 <= counts[1] <= 6 + at_once - 1
    assert 2 <= counts[2] <= 2 + at_once - 1
    assert len(trained(tmp_path)) == 20 + 2 * counts[1] + 6 * counts[2]
    best = min(t.params["loss.beta"] for t in trials_of(tmp_path))
    assert min(t.params["loss.beta"] for t in rungs[2]) == best


@pytest.mark.parametrize("total", [1, 2, 4])
def test_few_trials_still_have_a_winner(total, tmp_path):
    search_in_rungs(tmp_path, total=total)
    (winner,) = (t for t in trials_of(tmp_path) if t.state.name == "COMPLETE")
    assert winner.value == min(t.value for t in trials_of(tmp_path))
    assert len(trained(tmp_path)) == total + 2 + 6


def test_interrupts_lose_and_repeat_nothing(tmp_path):
    """At 20 random moments; each start resumes what is open."""
    draw, epochs, left = random.Random(0), count(), [20]

    def interrupt():
        next(epochs)
        if left[0] and draw.random() < 0.5:
            left[0] -= 1
            raise KeyboardInterrupt

    for _ in range(21):
        try:
            search_in_rungs(tmp_path, interrupt, total=30)
        except KeyboardInterrupt:
            continue
        break
    assert left == [0]
    check(tmp_path, 30)


def test_the_rank_at_the_rung_counts(tmp_path):
    """Values that cross later: what is best after the first epoch continues."""

    def value(beta, epoch):
        return math.cos(epoch * beta)

    search_in_rungs(tmp_path, value=value, total=9)
    _, second, _ = check(tmp_path, 9)
    firsts = {t.number: t for t in trials_of(tmp_path)}
    for trial in second:
        before = firsts[trial.user_attrs[CONTINUES]]
        assert trial.params == before.params
        assert trial.intermediate_values == {1: before.value, 3: trial.value}


def test_feasible_trials_continue_first(tmp_path):
    """Of the least β, which would be the best, the rate is too large."""
    constraints = constraints_of("val/rate <= 2")
    search_in_rungs(tmp_path, total=9, constraints=constraints)
    betas = [t.params["loss.beta"] for t in trials_of(tmp_path)]
    ends = [t for t in trials_of(tmp_path) if t.state.name == "COMPLETE"]
    assert min(betas) < 0.5 <= max(betas)
    assert min(t.params["loss.beta"] for t in ends) == min(beta for beta in betas if beta >= 0.5)


def search_beside_another(folder, barrier):
    barrier.wait()
    search_in_rungs(folder, total=24)


def test_processes_share_the_rungs(tmp_path):
    make_search(tmp_path)
    context = multiprocessing.get_context("forkserver")
    barrier = context.Barrier(2, timeout=120)
    parts = [
        context.Process(target=search_beside_another, args=(tmp_path, barrier)) for _ in range(2)
    ]
    for part in parts:
        part.start()
    for part in parts:
        part.join(240)
        part.kill()
    assert [part.exitcode for part in parts] == [0, 0]
    new = [t for t in counted_trials(study_of(tmp_path)) if CONTINUES not in t.user_attrs]
    assert len(new) == 24
    continued = [t for t in trials_of(tmp_path) if CONTINUES in t.user_attrs]
    assert all(t.state.is_finished() for t in continued)
    numbers = [t.user_attrs[CONTINUES] for t in continued if DUPLICATE not in t.user_attrs]
    assert len(set(numbers)) == len(numbers)
    assert len(set(trained(tmp_path))) == len(trained(tmp_path))
    best = min(t.params["loss.beta"] for t in new)
    assert min(t.value for t in trials_of(tmp_path) if t.state.name == "COMPLETE") == best


def test_a_trial_that_two_processes_chose_is_continued_once(tmp_path, monkeypatch):
    """Each choice is queued twice, as by another process at the same moment."""

    def twice(study, trial):
        enqueue_continuation(study_of(tmp_path), trial)
        enqueue_continuation(study, trial)

    monkeypatch.setattr(rungs_module, "enqueue_continuation", twice)
    search_in_rungs(tmp_path, total=9)
    assert len(trained(tmp_path)) == 9 + 3 * 2 + 6
    duplicates = [t for t in trials_of(tmp_path) if DUPLICATE in t.user_attrs]
    assert [t.state.name for t in duplicates] == ["FAIL"] * 4


@pytest.mark.parametrize("when", ["while this one waits", "between two of its questions"])
def test_a_process_waits_for_the_trials_of_another(when, tmp_path, monkeypatch):
    """Another host runs the last trial of the first rung, which will be the best."""
    search = make_search(tmp_path, total=3, rungs=RUNGS)
    other = search.ask()
    other.set_user_attr("owner", {"host": "elsewhere", "pid": 1})

    def tell(seconds=0.0):
        run = tmp_path / "of the other"
        if run.exists():
            return
        run.mkdir()
        other.set_user_attr("runs", [run.name])
        other.report(-1.0, 1)
        search.study.tell(other, state=TrialState.PRUNED)

    take_next = Rungs.take_next

    def take_then_tell(*args):
        taken = take_next(*args)
        if taken is None:
            tell()
        return taken

    monkeypatch.setattr("vae.sweeps.search.time.sleep", tell)
    if when == "between two of its questions":
        monkeypatch.setattr(Rungs, "take_next", take_then_tell)
    search_in_rungs(tmp_path, total=3)
    (winner,) = (t for t in trials_of(tmp_path) if t.state.name == "COMPLETE")
    assert winner.params == other.params


def test_equal_trials_are_continued_once(tmp_path):
    """Of a choice of two values, which have two runs; each value is the one of its epoch."""
    space = {"loss.beta": CategoricalDistribution([0.25, 0.5])}
    search_in_rungs(tmp_path, value=lambda beta, epoch: beta / epoch, total=12, space=space)
    assert len(trained(tmp_path)) == 2 + 2 + 6
    firsts = [t for t in trials_of(tmp_path) if RUNG not in t.user_attrs]
    assert {t.value for t in firsts} == {0.25, 0.5}
