"""One run by several processes: torch.distributed, behind functions that also work in one process.

torchrun starts the processes (ranks). Each rank holds the whole model, takes its slice of every
batch, and takes the same optimizer step on gradients that `DistributedDataParallel` averages.
Tensors on a GPU are exchanged by nccl, tensors on a CPU by gloo.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vae.utils.errors import UserError

# How long a rank waits for another rank that is alive; rank 0 may be packing a data set.
# gloo notices a rank that died at once, by its closed connection; torchrun ends all others.
TIMEOUT = timedelta(hours=24)

Arguments = ParamSpec("Arguments")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it started several, inside the block."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()
        gc.collect()  # ends gloo's threads, by what still refers to them; later they would abort


def rank() -> int:
    """Return the number of this process among the processes of the run; 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def on_rank_zero(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Decorate a function so that only rank 0 calls it; it returns nothing."""

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        if rank() == 0:
            function(*args, **kwargs)

    return call


def local_slice(count: int) -> slice:
    """Return this rank's contiguous slice of `count` rows, a multiple of the world size."""
    rows = count // world_size()
    return slice(rank() * rows, (rank() + 1) * rows)


def local_device(device: torch.device) -> torch.device:
    """Return this rank's own device of a kind: one GPU per rank, the CPU for all ranks.

    Raises:
        UserError: this machine has fewer GPUs than processes.
    """
    if world_size() == 1 or device.type == "cpu":
        return device
    processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if device.type != "cuda" or processes > gpus:
        raise UserError(
            f"trainer.device: {processes} processes need a GPU each, and this machine has {gpus} "
            f"of CUDA's: torchrun --nproc-per-node={max(gpus, 1)}, or trainer.device=cpu."
        )
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    return own


def data_parallel(model: nn.Module) -> nn.Module:
    """Return the model for the forward pass of training: its gradients are averaged over ranks.

    The parameters stay those of `model`. On GPUs, BatchNorm layers of `model` become
    SyncBatchNorm, in place: they normalise over the batch of all ranks. torch has none for
    CPUs: there each rank normalises over its own slice of the batch, and rank 0's running
    statistics are copied to all ranks.
    """
    if world_size() == 1:
        return model
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def all_gather(rows: Tensor) -> Tensor:
    """Concatenate the rows (n, ...) of all ranks to (n · world size, ...), for a loss of them all.

    Where each rank computes the same loss of the result, the gradient of `rows`, averaged over
    the ranks as `data_parallel` does, is the gradient of that loss. Hence the factor: of the
    loss, each rank only differentiates the part that depends on its own rows.
    """
    if world_size() == 1:
        return rows
    gathered = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(gathered, rows.detach().contiguous())
    gathered[rank()] = rows.detach() + world_size() * (rows - rows.detach())
    return torch.cat(gathered)


def all_sum(values: Tensor) -> Tensor:
    """Return `values` summed over the ranks, without a gradient."""
    if world_size() > 1:
        values = values.detach().clone()
        dist.all_reduce(values)
    return values


def all_mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return scalars averaged over the ranks, without a gradient."""
    means = all_sum(torch.stack(list(values.values())).detach()) / world_size()
    return dict(zip(values, means, strict=True))


def all_max(value: int) -> int:
    """Return the largest of the ranks' values."""
    if world_size() == 1:
        return value
    largest = torch.tensor(value)  # on the CPU, so that no rank waits for its GPU
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def copy_buffers(model: nn.Module) -> None:
    """Copy rank 0's buffers (BatchNorm statistics) to all ranks, in place."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def broadcast_object(message: Any = None) -> Any:
    """Return rank 0's message on all ranks; anything that can be pickled."""
    messages = [message]
    if world_size() > 1:
        dist.broadcast_object_list(messages, src=0)
    return messages[0]


def is_failed_exchange(error: BaseException) -> bool:
    """Return whether an exchange between ranks failed; mostly because another rank has ended."""
    failed = "gloo" in str(error) or isinstance(error, dist.DistError)
    return world_size() > 1 and isinstance(error, RuntimeError) and failed
