"""Profile the default training step on one thread.

    python -m tests.profiling.step_profile

Of convolutions and other operators read the column "Self CPU %"; of what calls them, as
the optimizer does (Optimizer.step), "CPU total %".
"""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from vae.benchmark.steps import DEFAULT, Setting, repeated_step
from vae.utils.devices import keep_memory

WARM_UP, STEPS = 5, 20


def main() -> None:
    torch.set_num_threads(1)
    keep_memory()
    step = repeated_step(Setting(), DEFAULT)
    for _ in range(WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(STEPS):
            step()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


if __name__ == "__main__":
    main()
