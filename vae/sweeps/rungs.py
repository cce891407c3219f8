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

RUNG = "rung"  # user attribute: the number of the rung that the trial runs to; without, 0
CONTINUES = "continues"  # user attribute: the number of the trial that it continues
KEPT = (RUNG, CONTINUES)  # user attributes of a trial that its retry has, too

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

    def to_continue(
        self, trials: Sequence[FrozenTrial], cost: Cost, *, drained: bool
    ) -> FrozenTrial | None:
        """Return the next trial to continue, from the lowest rung that has one; None: none.

        Args:
            trials: all of the study.
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
        return [
            trial
            for trial in trials
            if trial.state == TrialState.PRUNED
            and trial.user_attrs.get(RUNG, 0) == rung
            and self.epochs[rung] in trial.intermediate_values
        ]


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
