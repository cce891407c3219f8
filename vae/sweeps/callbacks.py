"""What Hydra is asked to do around a sweep."""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write


class NameRuns(Callback):
    """Leaves out of the runs' names the overrides that are the same for all of a sweep.

    `-m loss.beta=1e-5,1e-4 data.path=/a/b` makes `loss.beta=1e-05` and `loss.beta=0.0001`,
    with no trace of the path.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        parsed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        fixed = [str(o.key_or_group) for o in parsed if not o.is_sweep_override()]
        with read_write(config.hydra):
            # each job's config is composed anew, from these overrides and its own
            exclude = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"
            config.hydra.overrides.hydra.append(exclude)
