"""Which process updates which parameter (the first stage of ZeRO; Rajbhandari et al. 2020).

Each process has all gradients of its share of a batch. It could average all of them and take
the same step as the others; here it averages those of its own parameters only, keeps the
moments of these only, updates them, and hands them round. That is the same step, with less to
read, write and compute in each process. By a process alone, all of it is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vae.distributed import World
from vae.muon import Muon, update_work


class Sharding:
    """Shares out what an optimiser does among the processes.

    Args:
        optimizer: over the same parameters, in the same order, in all processes.
        world: the processes.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, world: World) -> None:
        self.optimizer = optimizer
        self.world = world
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        work = update_work if isinstance(optimizer, Muon) else Tensor.numel
        self.owners = share_out([work(parameter) for parameter in self.parameters], world.size)

    def reduce(self) -> list[Tensor]:
        """Average the gradients. Each process is left with those of the parameters it updates."""
        pairs = zip(self.parameters, self.owners, strict=True)
        given = [(p, owner) for p, owner in pairs if p.grad is not None]
        self.world.reduce([p.grad for p, _ in given], [owner for _, owner in given])
        for parameter, owner in given:
            if owner != self.world.rank:
                parameter.grad = None  # an optimiser passes over it
        return [p.grad for p, _ in given if p.grad is not None]

    def spread(self) -> None:
        """Have in all processes what each has updated."""
        self.world.spread(self.parameters, self.owners)

    def gather(self) -> None:
        """Have all moments in all processes, as a checkpoint needs them."""
        whole = self.optimizer.state_dict()
        own = {n: s for n, s in whole["state"].items() if self.owners[n] == self.world.rank}
        on_cpu = {n: {name: value.cpu() for name, value in s.items()} for n, s in own.items()}
        states = self.world.collect(on_cpu)
        whole["state"] = {n: moments for state in states for n, moments in state.items()}
        self.optimizer.load_state_dict(whole)


def share_out(work: Sequence[float], count: int) -> list[int]:
    """Which of `count` processes does each piece of work, so that they end about together.

    The largest pieces first, each to the one that has the least to do (Graham 1969).
    """
    loads, owners = [0.0] * count, [0] * len(work)
    for piece in sorted(range(len(work)), key=lambda piece: -work[piece]):
        owners[piece] = loads.index(min(loads))
        loads[owners[piece]] += work[piece]
    return owners
