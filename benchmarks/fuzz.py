"""Fuzz every reader with broken and hostile files; each must give a result or a `CocoopError` with a message, in time.

Usage: python benchmarks/fuzz.py [--inputs 100000] [--seed 0] [--processes 2] [--output bench/fuzz]

Real files of each kind are damaged at random (see `fuzz_damage.py`): bits are flipped, parts are cut, spliced or
overwritten, impossible numbers, names and lengths are inserted, the file is replaced by one of another kind, or it
stays intact with wrong values, names and types. A finding is any other exception, a refusal without a message or with a
very long one, a reader that takes more than ten seconds, or a process that dies; its input is kept in OUTPUT. The exit
code is 1 if there are findings.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from cocoop.errors import CocoopError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from fuzz_damage import damaged
from fuzz_readers import TRACE, Reader, make_readers

SECONDS = 10
"""Seconds after which a reader counts as hanging."""
LONGEST_MESSAGE = 1500
"""Longest message, in characters."""
CHUNK = 250
"""Inputs per process; then a new process starts."""
MEMORY = 6 << 30
"""Bytes of address space that a process may add."""


class Hang(BaseException):
    """Error that no reader catches as an error of a file."""


def main() -> None:
    """Fuzz, print the findings, and exit with 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("bench/fuzz"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    readers = list(make_readers())
    with tempfile.TemporaryDirectory() as home:
        for reader in readers:
            # Else all would be refused for another reason than its damage.
            assert attempt(reader, reader.seeds[0], Path(home)) == "read", reader.name
    started = time.perf_counter()
    totals: dict[str, Counter[str]] = {title(reader): Counter() for reader in readers}
    findings: list[tuple[str, str]] = []
    chunks = [(first, min(CHUNK, arguments.inputs - first)) for first in range(0, arguments.inputs, CHUNK)]
    # Forks, which have everything loaded; each is fresh, so that nothing one input does is left for the next chunk.
    context = multiprocessing.get_context("fork")
    running: dict[Any, tuple[Any, int, float]] = {}
    while chunks or running:
        while chunks and len(running) < arguments.processes:
            first, count = chunks.pop(0)
            receiver, sender = context.Pipe(duplex=False)
            work = (readers, first, count, arguments.seed, arguments.output, sender)
            process = context.Process(target=take_chunk, args=work)
            process.start()
            sender.close()
            running[receiver] = (process, first, time.monotonic())
        for receiver in multiprocessing.connection.wait(list(running), timeout=1.0):
            process, first, _ = running.pop(receiver)
            try:
                counts, found = receiver.recv()
                for name, counter in counts.items():
                    totals[name].update(counter)
                findings += found
            except EOFError:
                process.join()
                findings.append((f"inputs {first} to {first + CHUNK}", f"the process died with {process.exitcode}"))
            process.join()
        for receiver, (process, first, since) in list(running.items()):
            if time.monotonic() - since > CHUNK * SECONDS:
                process.kill()
                findings.append((f"inputs {first} to {first + CHUNK}", "the process hung"))
                del running[receiver]
    report(totals, findings, time.perf_counter() - started)
    sys.exit(1 if findings else 0)


def take_chunk(readers: list[Reader], first: int, count: int, seed: int, output: Path, sender: Any) -> None:
    """Try some inputs and send their outcomes."""
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, hang)
    counts: dict[str, Counter[str]] = {title(reader): Counter() for reader in readers}
    findings = []
    with tempfile.TemporaryDirectory() as home:
        for number in range(first, first + count):
            chance = random.Random(f"{seed}:{number}")
            reader = readers[number % len(readers)]
            others = [chance.choice(other.seeds) for other in readers]
            content = damaged(chance.choice(reader.seeds), others, chance)
            outcome = attempt(reader, content, Path(home))
            counts[title(reader)][outcome if outcome in ("read", "refused") else "finding"] += 1
            if outcome not in ("read", "refused"):
                output.mkdir(parents=True, exist_ok=True)
                (output / f"{number}-{reader.name}").write_bytes(content)
                findings.append((f"{number}-{reader.name}", outcome))
    sender.send((counts, findings))


def attempt(reader: Reader, content: bytes, home: Path) -> str:
    """Return `read`, `refused`, or a description of the fault."""
    for name, beside in reader.beside.items():
        (home / name).write_bytes(beside)
    path = home / reader.name
    path.write_bytes(content)
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        reader.read(path)
    except Hang:
        return f"more than {SECONDS} seconds"
    except CocoopError as error:
        message = str(error)
        if not 10 <= len(message) <= LONGEST_MESSAGE:
            return f"a message of {len(message)} characters: {message[:80]!r}"
        return "refused" if time.monotonic() - started < SECONDS else f"more than {SECONDS} seconds"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = str(error).replace(str(home), "HOME")[:120]
        return f"{type(error).__name__}: {what} ({Path(where.filename).name}:{where.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for entry in home.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    # What runs in C hears no signal until it is done.
    return "read" if time.monotonic() - started < SECONDS else f"more than {SECONDS} seconds"


def title(reader: Reader) -> str:
    """Return the name of a reader in the table."""
    return reader.title or reader.name


def hang(_number: int, _frame: Any) -> None:
    """Raise an error in a reader that takes too long."""
    raise Hang


def report(totals: dict[str, Counter[str]], findings: list[tuple[str, str]], seconds: float) -> None:
    """Return a Markdown table, followed by the findings."""
    print("| file | inputs | read | refused with a message | findings |\n|---|---|---|---|---|")
    whole: Counter[str] = Counter()
    for name, counter in totals.items():
        whole.update(counter)
        print(f"| {name} | {counter.total():,} | {counter['read']:,} | {counter['refused']:,} | {counter['finding']} |")
    print(f"| all | {whole.total():,} | {whole['read']:,} | {whole['refused']:,} | {len(findings)} |")
    print(f"\n{seconds:.0f} s")
    if TRACE.exists():
        findings.append(("a pickle", "ran a command"))
    kinds: dict[str, list[str]] = {}
    for name, what in findings:
        kinds.setdefault(f"{name.partition('-')[2]}: {what}", []).append(name)
    for what, names in sorted(kinds.items(), key=lambda kind: -len(kind[1])):
        print(f"{len(names)} x {what}  e.g. {names[0]}")


if __name__ == "__main__":
    main()
