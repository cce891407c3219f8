"""The interface of a process group (rank, size, collectives), and the group of one process.

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


class ProcessGroup:
    """The processes of a run; this class is the group of one process.

    All processes call the methods that exchange something at the same points of the run.
    """

    rank = 0  # this process's number
    size = 1  # how many there are

    def local_slice(self, count: int) -> slice:
        """Return this rank's contiguous slice of `count` items; slices differ by at most 1."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def check_batch_size(self, batch_size: int) -> None:
        """Raise a UserError unless the batch size is a multiple of the number of processes."""
        takes = f"a multiple of the number of processes, here {self.size}"
        require(batch_size % self.size == 0, "data.batch_size", batch_size, takes)

    def device(self, device: torch.device) -> torch.device:
        """Return this process's own device of that kind.

        Raises:
            UserError: there are too few of them.
        """
        return device

    def synchronize_batch_norm(self, model: nn.Module) -> None:
        """Make the model's BatchNorm layers normalise over the batch of all processes."""

    def compile(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model compiled by torch, with the same parameters."""
        # On a GPU a small model waits for its kernels to be launched: as CUDA graphs, all at once.
        mode = "reduce-overhead" if next(model.parameters()).is_cuda else None
        compiled: Callable[..., Any] = torch.compile(model, dynamic=False, mode=mode)
        return compiled

    def reduce(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        """Average each tensor over the processes, in place, on its owner alone.

        They are on the model's device, in the same order in all processes; in the others,
        their contents afterwards are undefined.
        """

    def broadcast_parameters(self, parameters: Sequence[Tensor], owners: Sequence[int]) -> None:
        """Copy the model's parameters, in place, from their owners."""

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return every rank's tensor of equal shape; valid until the next exchange."""
        return [tensor]

    def all_gather_object(self, message: Any) -> list[Any]:
        """Return each rank's message; anything that can be pickled.

        Raises:
            ConnectionError: one of them has ended.
        """
        return [message]

    def sum(self, values: Tensor) -> Tensor:
        """Return `values`, on the CPU, summed over the processes."""
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return `values`, on the CPU, averaged over the processes."""
        return self.sum(values) / self.size

    def gather(self, share: Tensor) -> Tensor:
        """Concatenate the ranks' slices of a batch, (n, ...) each as by `local_slice`.

        Gradients flow to this process's own share, as many times larger as there are
        processes: they are averaged later, where those of this share should be added.
        """
        return share

    def max(self, value: int) -> int:
        """Return the largest value of all processes."""
        return value

    def broadcast(self, message: Any = None) -> Any:
        """Return rank 0's message in all processes; anything that can be pickled.

        Raises:
            ConnectionError: it has ended.
        """
        return message

    def close(self) -> None:
        """Leave the group, at the end."""

    def __deepcopy__(self, memo: dict[int, Any]) -> ProcessGroup:
        """Return self: the layers of a copied model use the same group."""
        return self


SINGLE_PROCESS = ProcessGroup()
