"""Shared memory for tensors of the processes of one machine.

gloo sends them through the machine's own network, by threads that compete with the training
for the cores. A step exchanges about twenty times; docs/performance.md has the gain.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import accumulate
from mmap import mmap
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

ALIGNMENT = 64  # bytes: a line of the cache, which vector units like to begin at


class SharedMemory:
    """Shared memory in which each process writes its tensors and reads the others' tensors.

    All of torch.distributed's processes make one at the same point, and call `exchange` at
    the same points. Linux only.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._half = 0  # bytes of an exchange; there is room for two of them
        self._turn = 0
        self._memory: list[Tensor] = []  # each process's
        # Pipes to every other process; each opens its end of those to it, and keeps that alone.
        pipes = {rank: os.pipe() for rank in range(self.size) if rank != self.rank}
        inlets = _tell({rank: _path(inlet) for rank, (inlet, _) in pipes.items()})
        del inlets[self.rank]
        self._inlets = [os.open(paths[self.rank], os.O_RDONLY) for paths in inlets]
        self._outlets = [outlet for _, outlet in pipes.values()]
        dist.barrier()
        for inlet, _ in pipes.values():
            os.close(inlet)

    def exchange(self, given: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Exchange tensors between all processes; valid until the next exchange.

        Args:
            given: for each process, tensors laid out like those that it gives: on the CPU,
                dense, all of one dtype. What stands for this process, it gives.

        Returns:
            Each process's tensors, in shared memory; read-only.

        Raises:
            ConnectionError: another process has ended.
        """
        self._reserve(max(sum(tensor.nbytes for tensor in tensors) for tensors in given))
        # Other processes may still read the tensors of the last exchange, but none older.
        self._turn = 1 - self._turn
        places = [self._places(rank, tensors) for rank, tensors in enumerate(given)]
        for place, tensor in zip(places[self.rank], given[self.rank], strict=True):
            place.copy_(tensor)
        self.meet()
        return places

    def common(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Move rank 0's dense CPU tensors to memory shared by all processes.

        All processes see a write there after the next `meet`.
        """
        sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors]
        memory = _new_memory(sum(sizes))[0]
        begins = accumulate(sizes, initial=0)
        # Each a storage of its own: in a checkpoint, a part of one would bring all of it along.
        places = [
            torch.frombuffer(
                memory, dtype=tensor.dtype, count=tensor.numel(), offset=begin
            ).as_strided(tensor.shape, tensor.stride())
            for tensor, begin in zip(tensors, begins, strict=False)
        ]
        if self.rank == 0:
            for place, tensor in zip(places, tensors, strict=True):
                place.copy_(tensor)
        self.meet()
        return places

    def meet(self) -> None:
        """Wait for all processes; earlier writes are visible afterwards.

        A pipe also tells of a process that has died.
        """
        for outlet in self._outlets:
            os.write(outlet, b".")
        for inlet in self._inlets:
            if not os.read(inlet, 1):
                raise ConnectionError("another process of this run has ended")

    def _places(self, rank: int, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return consecutive views of a process's memory, shaped like these tensors."""
        if not tensors:
            return []
        begin = self._turn * self._half
        memory = self._memory[rank][begin : begin + self._half].view(tensors[0].dtype)
        counts = [tensor.numel() for tensor in tensors]
        parts = torch.split(memory[: sum(counts)], counts)
        return [
            part.as_strided(tensor.shape, tensor.stride())
            for part, tensor in zip(parts, tensors, strict=True)
        ]

    def _reserve(self, count: int) -> None:
        """Reserve bytes per exchange; all processes ask for the same number."""
        if count <= self._half:
            return
        self._half = 1 << (count - 1).bit_length()  # soon there is enough for all
        memories = _new_memory(2 * self._half)
        self._memory = [torch.frombuffer(memory, dtype=torch.uint8) for memory in memories]

    def close(self) -> None:
        """Tell the other processes that this process exchanges no more."""
        for pipe in self._inlets + self._outlets:
            os.close(pipe)


def _new_memory(size: int) -> list[mmap]:
    """Allocate memory of each process that all processes can access."""
    # Without a name, so that nothing is left behind, whatever ends the processes.
    own = os.memfd_create("tensors")
    os.posix_fallocate(own, 0, size)  # OSError now, not a bus error later
    memories = []
    for path in _tell(_path(own)):
        file = os.open(path, os.O_RDWR)
        memories.append(mmap(file, size))
        os.close(file)
    dist.barrier()
    os.close(own)
    return memories


def _path(descriptor: int) -> str:
    """Return a path by which other processes can open this process's descriptor."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _tell(message: Any) -> list[Any]:
    """Exchange one message per process."""
    messages: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, message)
    return messages
