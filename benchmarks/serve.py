"""Many requests at once against `cocoop serve`: none lost, p50 and p99, throughput with and without micro-batching.

Usage: python benchmarks/serve.py RUN PHOTOS [--requests 60] [--photos-each 1] [--rounds 3]
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

WAYS = {"micro-batched": (), "one by one": ("--max-batch", "1", "--batch-window-ms", "0")}
"""Options of the server, by what they mean."""


class Asked(NamedTuple):
    """One request and its answer."""

    images: Sequence[Path]
    answer: dict
    seconds: float


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--requests", type=int, default=60, help="at once")
    parser.add_argument("--photos-each", type=int, default=1, help="photos of a request")
    parser.add_argument("--rounds", type=int, default=3, help="of each way, in turns")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    found = find_images([arguments.images])
    each = arguments.images_each
    requests = [[found[(i * each + j) % len(found)] for j in range(each)] for i in range(arguments.requests)]
    asked: dict[str, list[list[Asked]]] = {way: [] for way in WAYS}
    with contextlib.ExitStack() as servers:
        urls = {
            way: servers.enter_context(serving(arguments.run, "--device", arguments.device, *options))
            for way, options in WAYS.items()
        }
        for url in urls.values():
            # The first pass through a model takes memory that later ones have.
            at_once(url, requests[:4])
        for _ in range(arguments.rounds):
            for way, url in urls.items():
                asked[way].append(at_once(url, requests))
    print(f"{arguments.requests} requests at once, {each} photo(s) each, {arguments.rounds} rounds in turns")
    print(f"{'':<15} {'answered':>9} {'own photos':>11} {'p50':>9} {'p99':>9} {'photos/s':>9}")
    for way, rounds in asked.items():
        show(way, rounds, arguments.requests)


def show(way: str, rounds: list[list[Asked]], wanted: int) -> None:
    """One line: percentiles over all rounds, the median round's throughput."""
    every = [one for asked in rounds for one in asked]
    right = sum([p["file"] for p in one.answer["images"]] == [image.name for image in one.images] for one in every)
    seconds = sorted(one.seconds for one in every)
    rates = [sum(len(one.images) for one in asked) / max(one.seconds for one in asked) for asked in rounds]
    p50, p99 = (seconds[min(len(seconds) - 1, int(share * len(seconds)))] for share in (0.5, 0.99))
    total = wanted * len(rounds)
    print(
        f"{way:<15} {len(every):>5}/{total} {right:>7}/{total} {p50:>7.2f} s {p99:>7.2f} s"
        f" {statistics.median(rates):>9.1f}"
    )


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    command = [sys.executable, "-m", "cocoop", "serve", *arguments, "--port", "0", "--no-ui"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        address = re.search(r"http://\S+", said)
        if address is None:
            raise SystemExit(said + process.stderr.read())
        yield address.group()
    finally:
        process.terminate()
        process.wait()


def at_once(url: str, requests: list[list[Path]]) -> list[Asked]:
    """Send all requests at the same moment; seconds count from it."""
    bodies = [multipart(images) for images in requests]
    start = threading.Barrier(len(requests))

    def ask(images: list[Path], body: bytes) -> Asked:
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        request = urllib.request.Request(f"{url}/v1/predict", body, headers)
        start.wait()
        began = time.perf_counter()
        with urllib.request.urlopen(request) as response:
            return Asked(images, json.load(response), time.perf_counter() - began)

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(ask, requests, bodies))


BOUNDARY = "----cocoop-benchmark"


def multipart(images: list[Path]) -> bytes:
    """Photos as the body of a form."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photos"; filename="{image.name}"\r\n\r\n'.encode()
        + image.read_bytes()
        for image in images
    ]
    return b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


if __name__ == "__main__":
    main()
