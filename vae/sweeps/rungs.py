"""Successive halving of a study's trials, each continued from its checkpoint.

Jamieson & Talwalkar 2016: a trial stops at a rung, a number of epochs; of the trials that reached a
rung, the best 1/reduction continue to the next. As in its asynchronous form (Li et al. 2020), no
worker waits for the slowest trial of a rung; but all new trials start before any is continued, and
lower rungs go first, so that a choice is made from nearly all trials of a rung.

A finished trial of Optuna's cannot go on, so a continued trial is a new trial with the same values,
which resumes the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from vae.sweeps.study import CONTINUES, RUNG, take_queued

DUPLICATE = "duplicate"  # user attribute: another trial continues the same one
Cost = Callable[[FrozenTrial], Any]  # to be sorted by; the least is the best


@dataclass(frozen=True)
class Rungs:
    """The rungs of a search.

    Args:
        epochs: at each of which trials stop, ascending; the last rung is the end of the run.
        reduction: one in so many continues.
    """

    epochs: Sequence[int]
    reduction: int

    def stop_at(self, trial: FrozenTrial | Trial) -> int | None:
        """Return the epoch at which a trial stops; None: at the end of its run."""
        rung = trial.user_attrs.get(RUNG, 0)
        return self.epochs[rung] if rung < len(self.epochs) else None

    def take_next(
        self, study: Study, cost: Cost, is_here: Callable[[FrozenTrial], bool]
    ) -> Trial | None:
        """Take the next trial to continue out of the queue; None: none, or none yet.

        To be called once all new trials have started.

        Args:
            cost: of a trial that stopped at a rung.
            is_here: whether a trial's runs are in this process's folder.
        """
        taken = _take_queued(study)  # first, as the choice is better with what comes of them
        if taken is None:
            trials = study.get_trials(deepcopy=False)
            drained = not any(map(is_open, trials))
            chosen = self.to_continue(list(filter(is_here, trials)), cost, drained=drained)
            if chosen:
                enqueue_continuation(study, chosen)
                taken = _take_queued(study)
        return taken

    def to_continue(
        self, trials: Sequence[FrozenTrial], cost: Cost, *, drained: bool
    ) -> FrozenTrial | None:
        """Return the next trial to continue, from the lowest rung that has one; None: none.

        Of trials with the same values, which have one run, the first counts.

        Args:
            trials: of the study.
            cost: of a trial that stopped at a rung.
            drained: whether no other trial will come to a rung. The best trial of the highest
                rung is then continued until one has reached the end.
        """
        continued = {trial.user_attrs.get(CONTINUES) for trial in trials}
        stopped = [sorted(self._stopped(trials, i), key=cost) for i in range(len(self.epochs))]
        chosen = [trial for rung in stopped for trial in rung[: len(rung) // self.reduction]]
        if drained and all(trial.state != TrialState.COMPLETE for trial in trials):
            chosen += [trial for rung in reversed(stopped) for trial in rung]
        return next((trial for trial in chosen if trial.number not in continued), None)

    def _stopped(self, trials: Sequence[FrozenTrial], rung: int) -> list[FrozenTrial]:
        """Return the trials that stopped at a rung."""
        by_values: dict[str, FrozenTrial] = {}
        for trial in trials:
            there = self.epochs[rung] in trial.intermediate_values
            if trial.state == TrialState.PRUNED and there and trial.user_attrs.get(RUNG, 0) == rung:
                by_values.setdefault(str(sorted(trial.params.items())), trial)
        return list(by_values.values())


def is_open(trial: FrozenTrial) -> bool:
    """Return whether a trial is at work, or waits to be continued."""
    return trial.state == TrialState.RUNNING or _is_queued(trial)


def _take_queued(study: Study) -> Trial | None:
    """Take a trial that waits to be continued; close those that another trial continues, too."""
    for trial in filter(_is_queued, study.get_trials(deepcopy=False)):
        taken = take_queued(study, trial)
        if taken and _is_duplicate(trial, study):
            taken.set_user_attr(DUPLICATE, True)
            study.tell(taken, state=TrialState.FAIL)
        elif taken:
            return taken
    return None


def _is_queued(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.WAITING and CONTINUES in trial.user_attrs


def _is_duplicate(trial: FrozenTrial, study: Study) -> bool:
    """Return whether an earlier trial continues the same one: two processes chose it at once."""
    tries = trial.system_attrs.get("retry_history", ())
    return any(
        other.number < trial.number
        and other.user_attrs.get(CONTINUES) == trial.user_attrs[CONTINUES]
        and other.number not in tries
        and DUPLICATE not in other.user_attrs
        for other in study.get_trials(deepcopy=False)
    )


def enqueue_continuation(study: Study, trial: FrozenTrial) -> None:
    """Queue a trial that continues a stopped one to the next rung."""
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            system_attrs={"fixed_params": trial.params},
            user_attrs={RUNG: trial.user_attrs.get(RUNG, 0) + 1, CONTINUES: trial.number},
            intermediate_values=trial.intermediate_values,
        )
    )
