"""What can be measured of a computation: seconds, peak memory, matrix-product work, and the machine's rate."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["matmul_rate", "matmul_work", "median_seconds", "peak_bytes"]

Call = Callable[[], object]


def median_seconds(
    calls: Mapping[str, Call], rounds: int, device: torch.device, *, turn: float = 1.0
) -> dict[str, float]:
    """Median wall time of each call, in seconds; the calls take turns, so that a busy machine is fair to all.

    Args:
        calls: by name.
        rounds: how many turns each has.
        device: waited for, before and after.
        turn: a call is repeated until its turn has lasted so many seconds, and the median counts: what a long call
            left of caches and memory would be the time of a short one that comes after it only once.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            repeats: list[float] = []
            while not repeats or sum(repeats) < turn:
                _wait(device)
                start = time.perf_counter()
                call()
                _wait(device)
                repeats.append(time.perf_counter() - start)
            times[name].append(statistics.median(repeats))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def peak_bytes(call: Call, device: torch.device) -> int:
    """Most bytes of tensors that a call holds at once, beyond what was there before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    # The profiler announces itself on stderr unless told not to.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    # Each allocation and release, in the order of time.
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def matmul_work(call: Call) -> int:
    """Floating-point operations of all matrix products and attentions in a call, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def matmul_rate(device: torch.device, dtype: torch.dtype, rounds: int = 15) -> float:
    """The machine's rate of matrix products of the tower's shape, in operations a second: the best of some rounds."""
    rows, width, hidden = 2048, 512, 2048
    a, b = torch.randn(rows, width), torch.randn(hidden, width)
    a, b = a.to(device, dtype), b.to(device, dtype)
    best = float("inf")
    for _ in range(rounds):
        _wait(device)
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * rows * width * hidden / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
