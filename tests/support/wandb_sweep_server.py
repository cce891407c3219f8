"""A stand-in for the W&B server that also steers a sweep, as `wandb agent` asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from tests.support.wandb_server import OnlineRun, WandbServer

SWEEP_ID = "sweep0id"


class SweepServer(WandbServer):
    """Gives the runs of one sweep to agents: each agent trains one run at a time.

    Args:
        points: the parameters of each run, {"loss.beta": 1e-4}; then the agent is told to exit.
        stop: called with a run that is at work; True stops the run, as early termination does.
    """

    def __init__(
        self,
        points: Sequence[dict[str, Any]],
        stop: Callable[[OnlineRun], bool] = lambda run: False,
    ) -> None:
        super().__init__()
        self.points, self.stop_run = list(points), stop
        self.sweep: dict[str, Any] = {}  # as `wandb sweep` sent it
        self.started: list[str] = []  # ids of runs

    def _query(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        match name:
            case "UpsertSweep":
                self.sweep = yaml.safe_load(given["config"])
                owner = {"id": "3", "name": given["entityName"] or self.entity}
                project = {"id": "2", "name": given["projectName"], "entity": owner}
                sweep = {"name": SWEEP_ID, "project": project}
                return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}
            case "SweepWithRuns":
                config = yaml.safe_dump(self.sweep)
                runs: dict[str, Any] = {"edges": []}
                sweep = {"id": "7", "name": given["sweep"], "config": config, "runs": runs}
                return {"project": {"sweep": sweep}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": "8"}}}
            case "Heartbeat":
                working = list(json.loads(given["runState"]))
                commands = json.dumps([*self._commands(working)])
                return {"agentHeartbeat": {"agent": {"id": "8"}, "commands": commands}}
        return super()._query(name, given)

    def _commands(self, working: list[str]) -> list[dict[str, Any]]:
        if working:
            stopped = [run for run in working if self.stop_run(self._run(run))]
            return [{"type": "stop", "run_id": run} for run in stopped]
        if len(self.started) == len(self.points):
            return [{"type": "exit"}]
        args = {key: {"value": value} for key, value in self.points[len(self.started)].items()}
        self.started.append(f"run{len(self.started)}")
        program = self.sweep["program"]
        return [{"type": "run", "run_id": self.started[-1], "program": program, "args": args}]
