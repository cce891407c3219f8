"""One run by several processes, as torchrun starts them: who they are and what they exchange.

Each process takes its share of every batch and all hold the same weights, so that together
they compute what one process computes with the whole batch. The first (rank 0) composes
the configuration and keeps the record; the others do as it does (vae/follower.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
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
        compiled: Callable[..., Any] = torch.compile(model, dynamic=False)
        return compiled

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Average each of the tensors, on the model's device, over the processes, in place."""

    def share(self, tensor: Tensor, owner: int) -> None:
        """Have process `owner`'s tensor in all processes, in place; it is there after `wait`."""

    def wait(self) -> None:
        """Wait until what was shared is there."""

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
        self._underway: list[Any] = []  # exchanges that nobody has waited for

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

    def average(self, tensors: Sequence[Tensor]) -> None:
        # In one piece: a hundred small messages take several times as long. And not while
        # the backward pass is still at work, whose BatchNorms would queue behind them.
        together = torch.cat([tensor.flatten() for tensor in tensors])
        self._dist.all_reduce(together)
        together /= self.size
        parts = torch.split(together, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def share(self, tensor: Tensor, owner: int) -> None:
        self._underway.append(self._dist.broadcast(tensor, owner, async_op=True))

    def wait(self) -> None:
        for exchange in self._underway:
            exchange.wait()
        self._underway.clear()

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
        self._owned: list[list[Tensor]] = [[] for _ in range(self.size)]  # to be shared, by owner

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

    def average(self, tensors: Sequence[Tensor]) -> None:
        if tensors[0].device.type != "cpu":
            return super().average(tensors)
        every = self._exchange([tensors] * self.size)
        for tensor, first, second, *others in zip(tensors, *every, strict=True):
            torch.lerp(first, second, 0.5, out=tensor)
            for count, other in enumerate(others, start=3):
                tensor.lerp_(other, 1 / count)

    def share(self, tensor: Tensor, owner: int) -> None:
        if tensor.device.type != "cpu":
            return super().share(tensor, owner)
        self._owned[owner].append(tensor)

    def wait(self) -> None:
        super().wait()
        if not any(self._owned):
            return
        for rank, places in enumerate(self._exchange(self._owned)):
            if rank != self.rank:
                for tensor, place in zip(self._owned[rank], places, strict=True):
                    tensor.copy_(place)
        self._owned = [[] for _ in range(self.size)]

    def leave(self) -> None:
        self._memory.close()
        super().leave()


@cache
def join() -> World:
    """The world that this process belongs to; the first call waits for the others."""
    size = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if size == 1:
        return ALONE
    neighbours = sys.platform == "linux" and int(os.environ["LOCAL_WORLD_SIZE"]) == size
    return Neighbours() if neighbours else Processes()
