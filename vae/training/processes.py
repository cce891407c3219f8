"""Training by several processes: collectives over gloo, nccl or shared memory; sharded updates.

Each process updates its own parameters only (the first stage of ZeRO; Rajbhandari et al. 2020):
it averages their gradients, keeps their moments, updates them, and sends them to the other
processes. The result equals one step on the whole batch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vae.models.global_norm import use_global_statistics
from vae.training.muon import Muon, update_work
from vae.training.shared_memory import SharedMemory
from vae.utils.distributed import SINGLE_PROCESS, ProcessGroup
from vae.utils.errors import UserError

# How long a process waits for another that is alive; the first one may be packing a data
# set. One that died is noticed at once, by its closed connection.
TIMEOUT = timedelta(hours=24)


class TorchrunGroup(ProcessGroup):
    """The processes that torchrun started, connected by gloo or nccl."""

    def __init__(self) -> None:
        # Tensors on the CPU travel by gloo, also beside GPUs: flags and sums wait for no GPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
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

    def synchronize_batch_norm(self, model: nn.Module) -> None:
        use_global_statistics(model, self)

    def compile(self, model: nn.Module) -> Callable[..., Any]:
        # No CUDA graphs: what GPUs exchange amid a pass is no part of one.
        compiled: Callable[..., Any] = torch.compile(model, dynamic=False)
        return compiled

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return every rank's tensor of equal shape; valid until the next exchange."""
        shares = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(shares, tensor)
        return shares

    def reduce(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        # A message an owner: a hundred small ones take several times as long. And not while
        # the backward pass is still at work, whose BatchNorms would queue behind them.
        for owner, theirs in group_by_owner(tensors, owners):
            together = torch.cat([tensor.flatten() for tensor in theirs])
            dist.reduce(together, owner)
            if owner == self.rank:
                _unflatten_into(together / self.size, theirs)

    def broadcast_parameters(self, parameters: Sequence[Tensor], owners: Sequence[int]) -> None:
        for owner, theirs in group_by_owner(parameters, owners):
            together = torch.cat([parameter.detach().flatten() for parameter in theirs])
            dist.broadcast(together, owner)
            if owner != self.rank:
                _unflatten_into(together, theirs)

    def all_gather_object(self, message: Any) -> list[Any]:
        messages: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(messages, message)
        except RuntimeError as error:
            raise ConnectionError("another process of this run has ended") from error
        return messages

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self.all_gather(values)).sum(0)

    def gather(self, share: Tensor) -> Tensor:
        count = int(self.sum(torch.tensor(len(share))))
        own = self.local_slice(count)
        whole = share.new_zeros(count, *share.shape[1:])
        whole[own] = share.detach()
        whole = self.sum(whole)
        if share.requires_grad:
            whole[own] = share * self.size - share.detach() * (self.size - 1)
        return whole

    def max(self, value: int) -> int:
        return max(int(share) for share in self.all_gather(torch.tensor(value)))

    def broadcast(self, message: Any = None) -> Any:
        messages = [message]
        try:
            dist.broadcast_object_list(messages, src=0)
        except RuntimeError as error:
            raise ConnectionError("the first process has ended") from error
        return messages[0]

    def close(self) -> None:
        dist.destroy_process_group()


class SharedMemoryGroup(TorchrunGroup):
    """A TorchrunGroup on one machine: exchange CPU tensors by shared memory."""

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

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        if tensor.device.type != "cpu":
            return super().all_gather(tensor)
        return [share for (share,) in self._exchange([[tensor.contiguous()]] * self.size)]

    def synchronize_batch_norm(self, model: nn.Module) -> None:
        super().synchronize_batch_norm(model)
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

    def broadcast_parameters(self, parameters: Sequence[Tensor], owners: Sequence[int]) -> None:
        if parameters[0].device.type != "cpu":
            return super().broadcast_parameters(parameters, owners)
        self._memory.meet()  # there is but one of each: they are where all processes have them

    def close(self) -> None:
        self._memory.close()
        super().close()


def group_by_owner(
    tensors: Sequence[Tensor], owners: Sequence[int]
) -> Iterator[tuple[int, list[Tensor]]]:
    """Yield each owner in order, with its tensors."""
    for owner in sorted(set(owners)):
        yield owner, [t for t, o in zip(tensors, owners, strict=True) if o == owner]


def _unflatten_into(together: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the values of one flat tensor into several tensors."""
    with torch.no_grad():
        parts = torch.split(together, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


class Sharding:
    """Divides the optimizer's work among the processes.

    Args:
        optimizer: over the same parameters, in the same order, in all processes.
        world: the processes.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, world: ProcessGroup) -> None:
        self.optimizer = optimizer
        self.world = world
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        work = update_work if isinstance(optimizer, Muon) else Tensor.numel
        self.owners = balance([work(parameter) for parameter in self.parameters], world.size)

    def average_gradients(self) -> list[Tensor]:
        """Average the gradients; each process keeps those of its own parameters."""
        pairs = zip(self.parameters, self.owners, strict=True)
        given = [(p, owner) for p, owner in pairs if p.grad is not None]
        self.world.reduce([p.grad for p, _ in given], [owner for _, owner in given])
        for parameter, owner in given:
            if owner != self.world.rank:
                parameter.grad = None  # an optimiser passes over it
        return [p.grad for p, _ in given if p.grad is not None]

    def broadcast_updates(self) -> None:
        """Send each process's updated parameters to all processes."""
        self.world.broadcast_parameters(self.parameters, self.owners)

    def gather_state(self) -> None:
        """Gather all moments in all processes, for a checkpoint."""
        whole = self.optimizer.state_dict()
        own = {n: s for n, s in whole["state"].items() if self.owners[n] == self.world.rank}
        on_cpu = {n: {name: value.cpu() for name, value in s.items()} for n, s in own.items()}
        states = self.world.all_gather_object(on_cpu)
        whole["state"] = {n: moments for state in states for n, moments in state.items()}
        self.optimizer.load_state_dict(whole)


def balance(work: Sequence[float], count: int) -> list[int]:
    """Assign pieces of work to `count` processes with balanced loads.

    The largest pieces first, each to the one that has the least to do (Graham 1969).
    """
    loads, owners = [0.0] * count, [0] * len(work)
    for piece in sorted(range(len(work)), key=lambda piece: -work[piece]):
        owners[piece] = loads.index(min(loads))
        loads[owners[piece]] += work[piece]
    return owners


@cache
def current_process_group() -> ProcessGroup:
    """Return this process's group; the first call waits for the other processes."""
    size = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if size == 1:
        return SINGLE_PROCESS
    neighbours = sys.platform == "linux" and int(os.environ["LOCAL_WORLD_SIZE"]) == size
    return SharedMemoryGroup() if neighbours else TorchrunGroup()
