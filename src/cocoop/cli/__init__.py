"""The command line: a shell over the library. A user's mistake is one line and an exit code, no traceback.

Exit codes: 0 done, 1 an error that was explained, 2 a command that cannot be understood, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from collections.abc import Sequence
from functools import reduce
from importlib import import_module
from operator import or_
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from cocoop.cli.console import fail, note
from cocoop.errors import CocoopError, CocoopWarning, about_memory
from cocoop.version import __version__

__all__ = ["main"]

DESCRIPTION = """Adapt CLIP-like models to your own photos from a handful of examples, by learning the prompt.

Start with `cocoop demo`, then `cocoop train PHOTOS`, where PHOTOS is a folder with one folder of photos a class."""


class Command(NamedTuple):
    """Where a command is; its module is imported when it is called, so that the others cost it no time."""

    module: str
    name: str
    summary: str


COMMANDS = {
    "train": Command("cocoop.cli.train", "TrainCommand", "Learn a prompt from photos, and compare it with CLIP's."),
    "predict": Command("cocoop.cli.predict", "PredictCommand", "Classify photos with a trained prompt."),
    "eval": Command("cocoop.cli.eval", "EvalCommand", "Measure a trained prompt on a data set."),
    "serve": Command("cocoop.cli.serve", "ServeCommand", "Put a trained prompt behind a page and a JSON API."),
    "explain": Command("cocoop.cli.explain", "ExplainCommand", "Show what a prompt learned, and what photos do to it."),
    "import": Command("cocoop.cli.import_", "ImportCommand", "Use a prompt that the papers' own code learned."),
    "export": Command("cocoop.cli.export", "ExportCommand", "Write a trained prompt as an ONNX file."),
    "push": Command("cocoop.cli.push", "PushCommand", "Publish a trained prompt on the Hugging Face hub."),
    "draw": Command("cocoop.cli.draw", "DrawCommand", "Print which photos a few-shot run would learn from."),
    "data": Command("cocoop.cli.data", "DataCommand", "List, download and check the data sets of the papers."),
    "demo": Command("cocoop.cli.demo", "DemoCommand", "Draw pictures, learn from them, write a report; offline."),
    "bench": Command(
        "cocoop.cli.bench_speed", "SpeedCommand", "The papers' experiments, and the speed of this machine."
    ),
    "report": Command("cocoop.cli.report", "ReportCommand", "Tables and a page from a sweep of experiments."),
}

BENCHES = {
    "base-to-new": Command("cocoop.cli.bench", "BaseToNewCommand", "From base classes to new ones (table 1)."),
    "cross-dataset": Command("cocoop.cli.bench", "CrossDatasetCommand", "From one data set to others (table 2)."),
    "domain": Command("cocoop.cli.bench", "DomainCommand", "From one style to others (table 3)."),
    "few-shot": Command("cocoop.cli.bench", "FewShotCommand", "Accuracy over the number of photos a class."),
    "together": Command("cocoop.cli.bench", "TogetherCommand", "Base and new classes in one label space."),
    "speed": Command(
        "cocoop.cli.bench_speed", "SpeedCommand", "Time and memory of CoCoOp here; what `cocoop bench` does."
    ),
}
"""The commands below `cocoop bench`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process lives
    # A file name need not be text; what cannot be encoded is printed as an escape, which JSON understands.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    warnings.showwarning = _shown  # type: ignore[assignment]
    try:
        _parsed(list(sys.argv[1:] if arguments is None else arguments)).run()
        sys.stdout.flush()
    except CocoopError as error:
        fail(str(error), 1)
    except KeyboardInterrupt as stop:
        fail(str(stop) or "Stopped.", 130)
    except BrokenPipeError:
        # The reader of our output (head, say) has seen enough.
        _forget_output()
        sys.exit(0)
    except OSError as error:
        # The outside world: a full disk, a folder without permission.
        _forget_output()
        fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.", 1)
    except (RuntimeError, MemoryError) as error:
        explanation = about_memory(error)
        if explanation is None:
            raise
        fail(explanation, 1)


def _shown(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """What a user should know is a note; other warnings, of libraries, look as they always do."""
    if issubclass(category, CocoopWarning):
        note(str(message))
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *place[:2]))


def _forget_output() -> None:
    """Let what is still buffered go nowhere; it would be tried again, and fail again, when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parsed(arguments: list[str]) -> Any:
    if arguments and arguments[0] == "bench":
        if len(arguments) > 1 and (arguments[1] in BENCHES or not arguments[1].startswith("-")):
            return _one_of(BENCHES, "cocoop bench", arguments[1:])
        if arguments[1:] in (["--help"], ["-h"]):
            return _one_of(BENCHES, "cocoop bench", ["--help"], description="Without a word: `cocoop bench speed`.")
    if arguments == ["--version"]:
        sys.stdout.write(f"cocoop {__version__}\n")
        sys.exit(0)
    return _one_of(COMMANDS, "cocoop", arguments, description=DESCRIPTION)


def _one_of(commands: dict[str, Command], prog: str, arguments: list[str], description: str | None = None) -> Any:
    if arguments and arguments[0] in commands:
        command = commands[arguments[0]]
        wanted = getattr(import_module(command.module), command.name)
        return _cli(wanted, f"{prog} {arguments[0]}", arguments[1:])
    # An overview, or what is wrong with the first word: that takes the names and summaries only.
    stubs = [
        Annotated[dataclasses.make_dataclass(command.name, []), tyro.conf.subcommand(name, description=command.summary)]
        for name, command in commands.items()
    ]
    return _cli(reduce(or_, stubs), prog, arguments or ["--help"], description=description)


def _cli(wanted: Any, prog: str, arguments: list[str], description: str | None = None) -> Any:
    return tyro.cli(
        wanted,
        prog=prog,
        description=description,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )
