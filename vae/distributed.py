"""One run by several processes, as torchrun starts them: who they are and what they exchange.

Each process takes its share of every batch and all hold the same weights, so that together
they compute what one process computes with the whole batch. The first (rank 0) composes
the configuration and keeps the record; the others do as it does (vae/follower.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from vae.errors import UserError, require

# How long a process waits for another that is alive; the first one may be packing a data
# set. One that died is noticed at once, by its closed connection.
PATIENCE = timedelta(hours=24)


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
        # On a GPU a small model waits for its kernels to be launched: as CUDA graphs, all are at
        # once. What GPUs exchange amid a pass is no part of one.
        alone_on_gpu = self.size == 1 and next(model.parameters()).is_cuda
        mode = "reduce-overhead" if alone_on_gpu else None
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


class Processes(World):
    """The processes that torchrun started, this one among them."""

    def __init__(self) -> None:
        import torch.distributed as dist

        # Tensors on the CPU travel by gloo, also beside GPUs: flags and sums wait for no GPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._dist = dist

    def device(self, device: torch.device) -> torch.device:
        if device.type == "cpu":
            return device
        here, there = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if device.type != "cuda" or here > there:
            raise UserError(
                f"trainer.device: {here} processes need a GPU each, and this machine has {there} "
                f"of CUDA's: torchrun --nproc-per-node={max(there, 1)}, or trainer.device=cpu."
            )
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        return own

    def unite(self, model: nn.Module) -> None:
        from vae.models.global_norm import use_global_statistics

        use_global_statistics(model, self)

    def shares(self, tensor: Tensor) -> list[Tensor]:
        """Every process's tensor, by rank; they are alike, and stay until the next exchange."""
        shares = [torch.empty_like(tensor) for _ in range(self.size)]
        self._dist.all_gather(shares, tensor)
        return shares

    def reduce(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        # A message an owner: a hundred small ones take several times as long. And not while
        # the backward pass is still at work, whose BatchNorms would queue behind them.
        for owner, theirs in by_owner(tensors, owners):
            together = torch.cat([tensor.flatten() for tensor in theirs])
            self._dist.reduce(together, owner)
            if owner == self.rank:
                _lay_out(together / self.size, theirs)

    def spread(self, parameters: Sequence[Tensor], owners: Sequence[int]) -> None:
        for owner, theirs in by_owner(parameters, owners):
            together = torch.cat([parameter.detach().flatten() for parameter in theirs])
            self._dist.broadcast(together, owner)
            if owner != self.rank:
                _lay_out(together, theirs)

    def collect(self, message: Any) -> list[Any]:
        messages: list[Any] = [None] * self.size
        try:
            self._dist.all_gather_object(messages, message)
        except RuntimeError as error:
            raise ConnectionError("another process of this run has ended") from error
        return messages

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self.shares(values)).sum(0)

    def gather(self, share: Tensor) -> Tensor:
        count = int(self.sum(torch.tensor(len(share))))
        own = self.part(count)
        whole = share.new_zeros(count, *share.shape[1:])
        whole[own] = share.detach()
        whole = self.sum(whole)
        if share.requires_grad:
            whole[own] = share * self.size - share.detach() * (self.size - 1)
        return whole

    def max(self, value: int) -> int:
        return max(int(share) for share in self.shares(torch.tensor(value)))

    def broadcast(self, message: Any = None) -> Any:
        messages = [message]
        try:
            self._dist.broadcast_object_list(messages, src=0)
        except RuntimeError as error:
            raise ConnectionError("the first process has ended") from error
        return messages[0]

    def leave(self) -> None:
        self._dist.destroy_process_group()


class Neighbours(Processes):
    """Processes of one machine: what they have on its CPU they exchange by its memory."""

    def __init__(self) -> None:
        from vae.shared_memory import SharedMemory

        super().__init__()
        self._memory = SharedMemory()
        self._exchange = self._memory.exchange

    def compile(self, model: nn.Module) -> Callable[..., Any]:
        # The compiler knows nothing of pipes.
        self._exchange = torch.compiler.disable(  # type: ignore[no-untyped-call]
            self._memory.exchange
        )
        return super().compile(model)

    def shares(self, tensor: Tensor) -> list[Tensor]:
        if tensor.device.type != "cpu":
            return super().shares(tensor)
        return [share for (share,) in self._exchange([[tensor.contiguous()]] * self.size)]

    def unite(self, model: nn.Module) -> None:
        super().unite(model)
        parameters = list(model.parameters())
        if parameters and parameters[0].device.type == "cpu":
            common = self._memory.common([parameter.detach() for parameter in parameters])
            for parameter, place in zip(parameters, common, strict=True):
                parameter.data = place

    def reduce(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        if tensors[0].device.type != "cpu":
            return super().reduce(tensors, owners)
        pairs = list(zip(tensors, owners, strict=True))
        own = [tensor for tensor, owner in pairs if owner == self.rank]
        # Each process gives what others own.
        every = self._exchange([[t for t, o in pairs if o != rank] for rank in range(self.size)])
        others = [rank for rank in range(self.size) if rank != self.rank]
        for count, rank in enumerate(others, start=2):
            given_to = [owner for owner in owners if owner != rank]
            theirs = [p for p, o in zip(every[rank], given_to, strict=True) if o == self.rank]
            for tensor, place in zip(own, theirs, strict=True):
                tensor.lerp_(place, 1 / count)

    def spread(self, parameters: Sequence[Tensor], owners: Sequence[int]) -> None:
        if parameters[0].device.type != "cpu":
            return super().spread(parameters, owners)
        self._memory.meet()  # there is but one of each: they are where all processes have them

    def leave(self) -> None:
        self._memory.close()
        super().leave()


def by_owner(
    tensors: Sequence[Tensor], owners: Sequence[int]
) -> Iterator[tuple[int, list[Tensor]]]:
    """Each owner that has any, in order, with its tensors."""
    for owner in sorted(set(owners)):
        yield owner, [t for t, o in zip(tensors, owners, strict=True) if o == owner]


def _lay_out(together: Tensor, tensors: Sequence[Tensor]) -> None:
    """Put the values of one long tensor into several."""
    with torch.no_grad():
        parts = torch.split(together, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


@cache
def join() -> World:
    """The world that this process belongs to; the first call waits for the others."""
    size = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if size == 1:
        return ALONE
    neighbours = sys.platform == "linux" and int(os.environ["LOCAL_WORLD_SIZE"]) == size
    return Neighbours() if neighbours else Processes()
