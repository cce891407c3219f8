"""What several processes exchange: by gloo or nccl, and those of one machine by its memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vae.distributed import World
from vae.errors import UserError
from vae.models.global_norm import use_global_statistics
from vae.shared_memory import SharedMemory

# How long a process waits for another that is alive; the first one may be packing a data
# set. One that died is noticed at once, by its closed connection.
PATIENCE = timedelta(hours=24)


class Processes(World):
    """The processes that torchrun started, this one among them."""

    def __init__(self) -> None:
        # Tensors on the CPU travel by gloo, also beside GPUs: flags and sums wait for no GPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

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
        use_global_statistics(model, self)

    def compile(self, model: nn.Module) -> Callable[..., Any]:
        # No CUDA graphs: what GPUs exchange amid a pass is no part of one.
        compiled: Callable[..., Any] = torch.compile(model, dynamic=False)
        return compiled

    def shares(self, tensor: Tensor) -> list[Tensor]:
        """Every process's tensor, by rank; they are alike, and stay until the next exchange."""
        shares = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(shares, tensor)
        return shares

    def reduce(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        # A message an owner: a hundred small ones take several times as long. And not while
        # the backward pass is still at work, whose BatchNorms would queue behind them.
        for owner, theirs in by_owner(tensors, owners):
            together = torch.cat([tensor.flatten() for tensor in theirs])
            dist.reduce(together, owner)
            if owner == self.rank:
                _lay_out(together / self.size, theirs)

    def spread(self, parameters: Sequence[Tensor], owners: Sequence[int]) -> None:
        for owner, theirs in by_owner(parameters, owners):
            together = torch.cat([parameter.detach().flatten() for parameter in theirs])
            dist.broadcast(together, owner)
            if owner != self.rank:
                _lay_out(together, theirs)

    def collect(self, message: Any) -> list[Any]:
        messages: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(messages, message)
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
            dist.broadcast_object_list(messages, src=0)
        except RuntimeError as error:
            raise ConnectionError("the first process has ended") from error
        return messages[0]

    def leave(self) -> None:
        dist.destroy_process_group()


class Neighbours(Processes):
    """Processes of one machine: what they have on its CPU they exchange by its memory."""

    def __init__(self) -> None:
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
