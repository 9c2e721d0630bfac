"""Measure a computation: seconds, peak memory, matrix-product work, and the rate that the machine reaches."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[], object]


def median_seconds(
    calls: Mapping[str, Call], rounds: int, device: torch.device, *, turn: float = 1.0
) -> dict[str, float]:
    """Time several calls in turns, so that a busy machine slows all of them alike.

    Args:
        calls: the calls by name.
        rounds: number of turns of each call.
        device: synchronized before and after each call.
        turn: seconds that a turn lasts at least. A short call is repeated within its turn and the median counts,
            because its first time suffers from what a long call left in caches.

    Returns:
        Median wall time of each call, in seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            repeats: list[float] = []
            while not repeats or sum(repeats) < turn:
                _synchronize(device)
                start = time.perf_counter()
                call()
                _synchronize(device)
                repeats.append(time.perf_counter() - start)
            times[name].append(statistics.median(repeats))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def peak_bytes(call: Call, device: torch.device) -> int:
    """Return the largest total of tensor bytes that a call allocates beyond what was allocated before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    # Without this, the profiler prints a line to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    allocated = peak = 0
    for _, change in changes:
        allocated += change
        peak = max(peak, allocated)
    return peak


def matmul_work(call: Call) -> int:
    """Count the floating-point operations of all matrix products and attentions in a call, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def matmul_rate(device: torch.device, dtype: torch.dtype, rounds: int = 15) -> float:
    """Measure the best rate of matrix products of the tower's shape, in operations a second."""
    rows, width, hidden = 2048, 512, 2048
    a, b = torch.randn(rows, width).to(device, dtype), torch.randn(hidden, width).to(device, dtype)
    best = float("inf")
    for _ in range(rounds):
        _synchronize(device)
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * rows * width * hidden / best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
