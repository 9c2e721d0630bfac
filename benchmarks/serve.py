"""Send many requests at once to `cocoop serve`; print answered requests, p50 and p99, and throughput with and without
micro-batching.

Usage: python benchmarks/serve.py RUN PHOTOS [--requests 60] [--images-each 1] [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from cocoop.data.find_images import find_images

MODES = {"micro-batched": (), "one by one": ("--max-batch", "1", "--batch-window-ms", "0")}
"""Options of the server by name."""


class Exchange(NamedTuple):
    """One request and its response."""

    images: Sequence[Path]
    answer: dict
    seconds: float


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("images", metavar="PHOTOS", type=Path)
    parser.add_argument("--requests", type=int, default=60, help="at once")
    parser.add_argument("--images-each", type=int, default=1, help="images per request")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each mode, alternating")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    found = find_images([arguments.images])
    each = arguments.images_each
    requests = [[found[(i * each + j) % len(found)] for j in range(each)] for i in range(arguments.requests)]
    exchanges: dict[str, list[list[Exchange]]] = {mode: [] for mode in MODES}
    with contextlib.ExitStack() as servers:
        urls = {
            mode: servers.enter_context(serving(arguments.run, "--device", arguments.device, *options))
            for mode, options in MODES.items()
        }
        for url in urls.values():
            # Warm up: the first pass through a model allocates memory.
            send_at_once(url, requests[:4])
        for _ in range(arguments.rounds):
            for mode, url in urls.items():
                exchanges[mode].append(send_at_once(url, requests))
    print(f"{arguments.requests} requests at once, {each} image(s) each, {arguments.rounds} alternating rounds")
    print(f"{'':<15} {'answered':>9} {'own images':>11} {'p50':>9} {'p99':>9} {'images/s':>9}")
    for mode, rounds in exchanges.items():
        print_row(mode, rounds, arguments.requests)


def print_row(mode: str, rounds: list[list[Exchange]], requests: int) -> None:
    """Print percentiles over all rounds, and the throughput of the median round."""
    every = [exchange for exchanges in rounds for exchange in exchanges]
    right = sum([p["file"] for p in e.answer["images"]] == [image.name for image in e.images] for e in every)
    seconds = sorted(exchange.seconds for exchange in every)
    rates = [sum(len(e.images) for e in exchanges) / max(e.seconds for e in exchanges) for exchanges in rounds]
    p50, p99 = (seconds[min(len(seconds) - 1, int(share * len(seconds)))] for share in (0.5, 0.99))
    total = requests * len(rounds)
    print(
        f"{mode:<15} {len(every):>5}/{total} {right:>7}/{total} {p50:>7.2f} s {p99:>7.2f} s"
        f" {statistics.median(rates):>9.1f}"
    )


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Start a server and yield its address."""
    command = [sys.executable, "-m", "cocoop", "serve", *arguments, "--port", "0", "--no-ui"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = re.search(r"http://\S+", line)
        if address is None:
            raise SystemExit(line + process.stderr.read())
        yield address.group()
    finally:
        process.terminate()
        process.wait()


def send_at_once(url: str, requests: list[list[Path]]) -> list[Exchange]:
    """Send all requests at the same moment."""
    bodies = [multipart(images) for images in requests]
    start = threading.Barrier(len(requests))

    def send(images: list[Path], body: bytes) -> Exchange:
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        request = urllib.request.Request(f"{url}/v1/predict", body, headers)
        start.wait()
        began = time.perf_counter()
        with urllib.request.urlopen(request) as response:
            return Exchange(images, json.load(response), time.perf_counter() - began)

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(send, requests, bodies))


BOUNDARY = "----cocoop-benchmark"


def multipart(images: list[Path]) -> bytes:
    """Return images as a multipart body."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{image.name}"\r\n\r\n'.encode()
        + image.read_bytes()
        for image in images
    ]
    return b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


if __name__ == "__main__":
    main()
