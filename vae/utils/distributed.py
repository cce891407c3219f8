"""One run by several processes, as torchrun starts them: who they are and what they exchange.

Each process takes its share of every batch and all hold the same weights, so that together
they compute what one process computes with the whole batch. The first (rank 0) composes
the configuration and keeps the record; the others do as it does (vae/runs/launch.py). How they
exchange: vae/training/processes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vae.utils.errors import require


class World:
    """The processes of a run; here, this one alone, which has nobody to exchange with.

    All processes call the methods that exchange something at the same points of the run.
    """

    rank = 0  # this process's number
    size = 1  # how many there are

    def part(self, count: int) -> slice:
        """This process's contiguous share of `count` things; the shares differ by 1 at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def check(self, batch_size: int) -> None:
        """Raise a UserError unless a batch can be shared out equally."""
        takes = f"a multiple of the number of processes, here {self.size}"
        require(batch_size % self.size == 0, "data.batch_size", batch_size, takes)

    def device(self, device: torch.device) -> torch.device:
        """This process's own device of that kind.

        Raises:
            UserError: there are too few of them.
        """
        return device

    def unite(self, model: nn.Module) -> None:
        """Have the model's BatchNorm layers see the processes' shares of a batch as one."""

    def compile(self, model: nn.Module) -> Callable[..., Any]:
        """The united model as torch compiles it, with the same parameters."""
        # On a GPU a small model waits for its kernels to be launched: as CUDA graphs, all at once.
        mode = "reduce-overhead" if next(model.parameters()).is_cuda else None
        compiled: Callable[..., Any] = torch.compile(model, dynamic=False, mode=mode)
        return compiled

    def reduce(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        """Average each of the tensors over the processes, in place, in its owner alone.

        They are on the model's device, in the same order in all processes; in the others,
        what is in them after it is of no use.
        """

    def spread(self, parameters: Sequence[Tensor], owners: Sequence[int]) -> None:
        """Have the united model's parameters, in place, as they are in each one's owner."""

    def shares(self, tensor: Tensor) -> list[Tensor]:
        """Every process's tensor, by rank; they are alike, and stay until the next exchange."""
        return [tensor]

    def collect(self, message: Any) -> list[Any]:
        """What each process says, by rank. Anything that can be pickled.

        Raises:
            ConnectionError: one of them has ended.
        """
        return [message]

    def sum(self, values: Tensor) -> Tensor:
        """`values`, on the CPU, summed over the processes."""
        return values

    def mean(self, values: Tensor) -> Tensor:
        """`values`, on the CPU, averaged over the processes."""
        return self.sum(values) / self.size

    def gather(self, share: Tensor) -> Tensor:
        """The processes' shares of a batch, (n, ...) each as by `part`, in one.

        Gradients flow to this process's own share, as many times larger as there are
        processes: they are averaged later, where those of this share should be added.
        """
        return share

    def max(self, value: int) -> int:
        """The largest of the processes' values: all get the same answer."""
        return value

    def broadcast(self, message: Any = None) -> Any:
        """What the first process says, in all of them. Anything that can be pickled.

        Raises:
            ConnectionError: it has ended.
        """
        return message

    def leave(self) -> None:
        """Part from the other processes, at the end."""

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        """There is but one: the layers of a copied model exchange with the same processes."""
        return self


ALONE = World()
