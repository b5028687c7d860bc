"""What the machine gives to a training run: device, cores, bfloat16, memory, processes. No algorithm."""

import contextlib
import ctypes
import os
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cleanpoke.errors import CleanPokeError


class Place(NamedTuple):
    """Where this process computes: process `rank` of `world`."""

    device: torch.device
    rank: int
    world: int

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints, saves and evaluates."""
        return self.rank == 0


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start(device: str, threads: int) -> Place:
    """Prepares this process, and joins the others that torchrun started.

    device: auto, cpu or cuda; threads: CPU threads of this process, 0 for its share of the cores. Raises
    CleanPokeError if a CUDA device is asked for and there is none, and for a negative number of threads.
    """
    if threads < 0:
        raise CleanPokeError("--threads must not be negative: give 0 for all cores")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device == "cuda" and not torch.cuda.is_available():
        raise CleanPokeError("--device cuda, but PyTorch finds no CUDA device: use --device cpu")
    has_cuda = torch.cuda.is_available() and device != "cpu"
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if has_cuda else torch.device("cpu")
    torch.set_num_threads(threads or max(available_cores() // world, 1))
    _keep_freed_memory()
    if has_cuda:
        torch.cuda.set_device(place)
    if world > 1:
        # Long: the others wait while the first one collects and evaluates.
        dist.init_process_group("nccl" if has_cuda else "gloo", timeout=timedelta(days=1))
    return Place(place, rank, world)


def _keep_freed_memory() -> None:
    """Tells glibc to reuse freed memory instead of giving it back at once.

    Each update frees and takes the same gigabyte again; without this, the kernel clears 17,000 pages for it
    each time. Other C libraries lack the call.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink


def multiplies_bfloat16(device: torch.device, cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the hardware multiplies bfloat16 matrices faster than float32 ones.

    Processors do with AMX. With AVX512_BF16 alone our networks train slower than in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    with contextlib.suppress(OSError):
        return "amx_bf16" in cpu_info.read_text().partition("flags")[2].partition("\n")[0].split()
    return False


def autocast(device: torch.device, bf16: str) -> torch.autocast:
    """Mixed precision for a forward pass; bf16: on, off, or auto: where the hardware multiplies bfloat16.

    Without autocast's cache: it would hand weights that were cast under no_grad to a part with gradients.
    """
    enabled = bf16 == "on" or (bf16 == "auto" and multiplies_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def global_sums(*values: Tensor) -> list[Tensor]:
    """Each tensor summed over all processes, in float64, without gradient. They must be on one device."""
    values = [value.detach().double() for value in values]
    if not dist.is_initialized():
        return values
    flat = torch.cat([value.flatten() for value in values])
    dist.all_reduce(flat)
    parts = flat.split([value.numel() for value in values])
    return [part.view_as(value) for part, value in zip(parts, values, strict=True)]


def gathered(values: list[float]) -> list[float]:
    """The values of all processes, one process after the other."""
    if not dist.is_initialized():
        return values
    lists: list[list[float]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, values)
    return [value for part in lists for value in part]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Adds up the gradients of all processes, which must have been divided by global counts already."""
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
