"""Run well-behaved and hostile clients against `cocoop serve` for minutes: lost requests, crashes, growth of memory.

Usage: python benchmarks/soak.py RUN PHOTOS [--minutes 6] [--clients 8]

Well-behaved clients send random images and class names, others send bytes that are no image, too much data, malformed
forms, decompression bombs or slow uploads, or disconnect early. Prints requests by kind and status, times, and memory
over time; the exit code is 1 if the server ends, answers 5xx, loses a well-formed request, or grows by more than 5 %
after the warm-up.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
from PIL import Image

WARM_UP = 1.0
"""Minutes before memory counts."""

FORM = {"Content-Type": "multipart/form-data; boundary=xyz"}
WORDS = ["cat", "dog", "tree frog", "boat", "lamp", "chair", "apple", "river", "stone", "cloud", "house", "clock"]


def main() -> None:
    """Run the server and the clients, print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", metavar="PHOTOS", type=Path)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    images = [path.read_bytes() for path in sorted(arguments.images.rglob("*.*")) if path.suffix in (".jpg", ".png")]
    with tempfile.NamedTemporaryFile("w+") as said:
        command = [sys.executable, "-m", "cocoop", "serve", str(arguments.run), "--port", "0", "--device", "cpu"]
        server = subprocess.Popen(command, stderr=said)
        port = wait_for_port(said.name, server)
        until = time.monotonic() + 60 * arguments.minutes
        tally = Tally()
        clients = [
            threading.Thread(target=client, args=(port, images[:500], seed, until, tally))
            for seed in range(arguments.clients)
        ]
        for one in clients:
            one.start()
        memory = watch(server.pid, until)
        for one in clients:
            one.join()
        alive = server.poll() is None
        server.terminate()
        code = server.wait(timeout=60)
        log = Path(said.name).read_text()
    problems = report(tally, memory, alive, code, log)
    sys.exit(1 if problems else 0)


class Tally:
    """Outcomes of the requests of all clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.seconds: list[float] = []

    def add(self, kind: str, outcome: str, seconds: float | None = None) -> None:
        """Count one request."""
        with self._lock:
            self.outcomes[kind, outcome] += 1
            if seconds is not None:
                self.seconds.append(seconds)


def wait_for_port(log: str, server: subprocess.Popen[bytes]) -> int:
    """Return the port of the server."""
    while server.poll() is None:
        found = re.search(r"http://\S+:(\d+)", Path(log).read_text())
        if found:
            return int(found[1])
        time.sleep(0.1)
    sys.exit(Path(log).read_text())


def client(port: int, images: list[bytes], seed: int, until: float, tally: Tally) -> None:
    """Send requests of random kinds until the deadline."""
    chance = random.Random(seed)
    while time.monotonic() < until:
        kind = chance.choices(list(KINDS), weights=[weight for weight, _ in KINDS.values()])[0]
        started = time.monotonic()
        try:
            outcome = KINDS[kind][1](port, images, chance)
        except (OSError, http.client.HTTPException) as error:
            outcome = type(error).__name__
        tally.add(kind, outcome, time.monotonic() - started if kind == "good" else None)


def good(port: int, images: list[bytes], chance: random.Random) -> str:
    """Send images, sometimes with class names; `lost` if a result is missing."""
    chosen = chance.sample(images, chance.randint(1, 4))
    names = chance.sample(WORDS, chance.randint(2, 8)) if chance.random() < 0.5 else []
    status, answer = ask(port, form([("photo.jpg", image) for image in chosen], names))
    if status == 200:
        found = json.loads(answer)["images"]
        return "200" if len(found) == len(chosen) and all(one["label"] for one in found) else "lost"
    return str(status)


def no_image(port: int, images: list[bytes], chance: random.Random) -> str:
    """Send random bytes, a truncated image or a decompression bomb."""
    content = chance.choice([chance.randbytes(2000), chance.choice(images)[:1000], b"", BOMB])
    return str(ask(port, form([("photo.jpg", content)], []))[0])


def too_much(port: int, _images: list[bytes], chance: random.Random) -> str:
    """Send too many bytes or class names."""
    if chance.random() < 0.3:
        return str(ask(port, form([("big.jpg", bytes(21 << 20))], []))[0])
    return str(ask(port, form([], [f"name {i}" for i in range(5000)]))[0])


def broken(port: int, _images: list[bytes], chance: random.Random) -> str:
    """Send a malformed form."""
    body = chance.choice([b"--xyz\r\nnonsense", b"", chance.randbytes(500), b"--xyz--", b'{"images": 1}'])
    return str(ask(port, body)[0])


def slow(port: int, images: list[bytes], chance: random.Random) -> str:
    """Send a body over two seconds."""
    body = form([("photo.jpg", chance.choice(images))], [])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head(len(body)))
        for start in range(0, len(body), 1 + len(body) // 8):
            connection.sendall(body[start : start + 1 + len(body) // 8])
            time.sleep(0.25)
        return connection.recv(100).split()[1].decode()


def leaving(port: int, images: list[bytes], chance: random.Random) -> str:
    """Disconnect in the middle of a request, or before the answer."""
    body = form([("photo.jpg", chance.choice(images))], [])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall((head(len(body)) + body)[: chance.randint(1, len(body) + 200)])
    return "left"


def elsewhere(port: int, _images: list[bytes], chance: random.Random) -> str:
    """Send other paths and methods."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    path = chance.choice(["/../../etc/passwd", "/v1/none", "/", "/docs", "/v1/health", "/v1/predict"])
    connection.request(chance.choice(["GET", "DELETE", "PUT"]), path)
    status = connection.getresponse().status
    connection.close()
    return str(status)


KINDS = {
    "good": (10, good),
    "no photo": (3, no_image),
    "too much": (1, too_much),
    "broken form": (3, broken),
    "slow": (1, slow),
    "leaving": (3, leaving),
    "other paths": (3, elsewhere),
}
"""Weight and function of each kind of client."""


def form(images: list[tuple[str, bytes]], names: list[str]) -> bytes:
    """Return a multipart body with images and class names."""
    start = b"--xyz\r\nContent-Disposition: form-data; "
    parts = [start + f'name="images"; filename="{name}"'.encode() + b"\r\n\r\n" + c + b"\r\n" for name, c in images]
    parts += [start + b'name="classes"\r\n\r\n' + name.encode() + b"\r\n" for name in names]
    return b"".join(parts) + b"--xyz--\r\n"


def head(length: int) -> bytes:
    """Return the headers of a request with a body of this size."""
    lines = [
        "POST /v1/predict HTTP/1.1",
        "Host: x",
        f"Content-Length: {length}",
        f"Content-Type: {FORM['Content-Type']}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def ask(port: int, body: bytes) -> tuple[int, bytes]:
    """Return status and body of the response to a form."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/v1/predict", body, FORM)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def bomb() -> bytes:
    """An image of 400 million pixels in a few KB."""
    content = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    return content.getvalue()


BOMB = bomb()


def watch(pid: int, until: float) -> list[tuple[float, int]]:
    """Return seconds and resident bytes of a process, every two seconds."""
    started, seen = time.monotonic(), []
    while time.monotonic() < until:
        try:
            seen.append((time.monotonic() - started, psutil.Process(pid).memory_info().rss))
        except psutil.NoSuchProcess:
            break
        time.sleep(2)
    return seen


def report(tally: Tally, memory: list[tuple[float, int]], alive: bool, code: int, log: str) -> list[str]:
    """Print the report and return the problems."""
    print("| client | requests | answers |\n|---|---|---|")
    for kind in [*KINDS, "half a head"]:
        found = {outcome: n for (one, outcome), n in sorted(tally.outcomes.items()) if one == kind}
        print(f"| {kind} | {sum(found.values()):,} | {', '.join(f'{o}: {n:,}' for o, n in found.items())} |")
    print(f"\n{sum(tally.outcomes.values()):,} requests in {memory[-1][0] / 60:.1f} minutes.")
    times = sorted(tally.seconds)
    print(f"Good ones: p50 {statistics.median(times):.2f} s, p99 {times[int(0.99 * len(times))]:.2f} s.")
    seconds, warm = zip(*[one for one in memory if one[0] >= min(60 * WARM_UP, memory[-1][0] / 4)], strict=True)
    slope = statistics.linear_regression(seconds, warm).slope
    early, late = (statistics.median(part) for part in (warm[: len(warm) // 4], warm[-len(warm) // 4 :]))
    print(
        f"Memory: {memory[0][1] / 2**20:.0f} MiB at the start, {early / 2**20:.0f} later, {late / 2**20:.0f} "
        f"at the end, {max(rss for _, rss in memory) / 2**20:.0f} at most; {60 * slope / 2**20:+.2f} MiB a minute."
    )
    tracebacks = log.count("Traceback")
    print(f"Stopped with {code}; {tracebacks} tracebacks in its log.")
    problems = [f"{n} x {kind}: {o}" for (kind, o), n in tally.outcomes.items() if o.startswith("5") or o == "lost"]
    problems += [
        f"{n} x half a head: {o}" for (kind, o), n in tally.outcomes.items() if kind == "half a head" and o != "408"
    ]
    problems += [f"{n} x good: {o}" for (kind, o), n in tally.outcomes.items() if kind == "good" and o != "200"]
    problems += ["the server ended"] * (not alive) + ["it did not stop well"] * (code != 0)
    problems += ["memory grew"] * (late > 1.05 * early) + ["tracebacks"] * (tracebacks > 0)
    for problem in problems:
        print(f"PROBLEM: {problem}")
    if problems:
        print("The end of the log:", log[-5000:], sep="\n")
    return problems


if __name__ == "__main__":
    main()
