"""Device, precision, threads and the memory allocator."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import cast

import torch
from torch import Tensor, nn

from vae.utils.distributed import world_size
from vae.utils.errors import UserError
from vae.utils.text import plural

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the fastest available one.

    Raises:
        UserError: this machine has no such device.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if not there.get(name, False):
        found = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise UserError(f"trainer.device: got {name!r}, but this machine has {found}.")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> str:
    """Return fp32 or bf16; "auto" is bf16 if the device computes in it, else fp32."""
    if name == "auto":
        return "bf16" if computes_in_bf16(device) else "fp32"
    return name


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which the model runs: bfloat16 matrix products, or plain float32.

    Weights, losses and sums stay float32 throughout. `precision` is one of `PRECISIONS`.
    """
    bf16 = pick_precision(precision, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether the device reports native bfloat16 arithmetic.

    False for CPUs other than x86, which emulate parts of a training step, and for Apple's GPUs,
    which gain nothing.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
            return False
        able = torch.cpu.get_capabilities()
        return any(bool(able.get(name)) for name in ("avx512_bf16", "amx_bf16"))
    return False


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device without waiting for it.

    To a GPU it goes from pinned memory: from any other, the copy would be waited for.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = Path("/proc/cpuinfo")
    if names.exists() and "model name" in (text := names.read_text(encoding="utf-8")):
        return text.partition("model name")[2].partition(":")[2].partition("\n")[0].strip()
    return platform.processor() or platform.machine()


def compile_model(model: nn.Module) -> nn.Module:
    """Return the model compiled by torch, with the same parameters.

    On a GPU, launching the kernels of a small model takes longer than running them: one process
    uses CUDA graphs. Several cannot: a graph cannot hold their exchanges.
    """
    graphs = next(model.parameters()).is_cuda and world_size() == 1
    compiled = torch.compile(model, dynamic=False, mode="reduce-overhead" if graphs else None)
    return cast("nn.Module", compiled)


def require_compiler(device: torch.device, key: str = "trainer.compile") -> None:
    """Raise a UserError, by compiling a small function, if torch cannot compile for the device."""
    try:
        torch.compile(torch.neg, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # of the compiler, of torch or of the disk
        lines = [line for line in str(error).splitlines() if not line.endswith("raised:")]
        lines = lines or [type(error).__name__]
        cause = next((line for line in lines if "error:" in line), lines[0])  # in g++'s output
        off = "set it to false" if "." in key else "leave it out"
        raise UserError(
            f"{key}: torch cannot compile the model on this machine ({shorten(cause, 200)}). It "
            "needs a C++ compiler (g++ or clang++, or the one that CXX names), Python's headers, "
            "on a GPU Triton, and a writable TORCHINDUCTOR_CACHE_DIR. Install what is missing, "
            f"or {off}."
        ) from error


def hardware_name(device: torch.device, threads: int | None) -> str:
    """Return the name of the hardware and torch's version, for comparing times."""
    threads = threads or torch.get_num_threads()
    used = f", {plural(threads, 'thread')}" if device.type == "cpu" else ""
    return f"{device_name(device)}{used}, torch {torch.__version__.partition('+')[0]}"


def describe_device(device: torch.device, threads: int | None) -> str:
    """Describe device, threads and processes, for the log."""
    on = f"cpu (threads: {threads or torch.get_num_threads()})"
    on = on if device.type == "cpu" else str(device)
    return f"{world_size()} processes, each on {on}" if world_size() > 1 else on


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use `count` CPU threads inside the block (None: torch's current number)."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """Keep freed memory in this process, for reuse by the next training step.

    glibc gives large tensors back to the system as they are freed, and every step pays
    anew for fresh pages: up to a fifth of its time on a CPU. With this it keeps up to
    1 GiB a tensor; the process then holds the most that it has ever needed. It lasts to
    the process's end, and does nothing where there is no glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD in malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, 2**31 - 1)
    if not libc.mallopt(mmap_threshold, 2**30):
        libc.mallopt(mmap_threshold, 2**25)  # the most that a glibc before 2.35 takes


def gpu_memory(device: torch.device) -> dict[str, int] | None:
    """Return the peak of GPU memory of this process and the GPU's total, in bytes.

    The peak has what torch reserved for tensors, and what CUDA took besides (of this process, if
    no other uses the GPU).

    Returns:
        {"peak": ..., "total": ...}; None for another device.
    """
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    besides = total - free - torch.cuda.memory_reserved(device)
    return {"peak": torch.cuda.max_memory_reserved(device) + besides, "total": total}
