"""Command line: each command parses its flags, calls the library and prints the result.

Exit codes: 0 success, 1 an error that was explained, 2 a command line that cannot be parsed, 130 interrupted by Ctrl-C.
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
from cocoop.cli.flags import with_flags
from cocoop.errors import CocoopError, CocoopWarning, about_memory
from cocoop.version import __version__

__all__ = ["main"]

DESCRIPTION = """Adapt CLIP-like models to your own photos from a handful of examples, by learning the prompt.

Start with `cocoop demo`, then `cocoop train PHOTOS`, where PHOTOS is a folder with a folder for each class."""


class Command(NamedTuple):
    """Location of a command; its module is imported only when it runs, so that the others start fast."""

    module: str
    name: str
    summary: str


COMMANDS = {
    "train": Command("cocoop.cli.train", "TrainCommand", "Train a prompt on photos and compare it with CLIP."),
    "predict": Command("cocoop.cli.predict", "PredictCommand", "Classify photos with a trained prompt."),
    "eval": Command("cocoop.cli.eval", "EvalCommand", "Measure a trained prompt on a data set."),
    "serve": Command("cocoop.cli.serve", "ServeCommand", "Serve a trained prompt as a web page and a JSON API."),
    "explain": Command("cocoop.cli.explain", "ExplainCommand", "Show what a prompt learned and how images shift it."),
    "import": Command("cocoop.cli.import_", "ImportCommand", "Import a checkpoint of the papers' own code."),
    "export": Command("cocoop.cli.export", "ExportCommand", "Export a trained prompt to ONNX."),
    "push": Command("cocoop.cli.push", "PushCommand", "Publish a trained prompt on the Hugging Face hub."),
    "draw": Command("cocoop.cli.draw", "DrawCommand", "Print the images that a few-shot run would train on."),
    "data": Command("cocoop.cli.data", "DataCommand", "List, download and check the data sets of the papers."),
    "demo": Command("cocoop.cli.demo", "DemoCommand", "Train and compare all methods on bundled images, offline."),
    "bench": Command("cocoop.cli.bench", "BaseToNewCommand", "Run the papers' experiments on any data set."),
    "report": Command("cocoop.cli.report", "ReportCommand", "Make tables and a page from the records of a sweep."),
}

EXPERIMENTS = {
    "base-to-new": Command("cocoop.cli.bench", "BaseToNewCommand", "From base classes to new ones (table 1)."),
    "cross-dataset": Command("cocoop.cli.bench", "CrossDatasetCommand", "From one data set to others (table 2)."),
    "domain": Command("cocoop.cli.bench", "DomainCommand", "From one style to others (table 3)."),
    "few-shot": Command("cocoop.cli.bench", "FewShotCommand", "Accuracy over the number of images per class."),
    "together": Command("cocoop.cli.bench", "TogetherCommand", "Base and new classes in one label space."),
}
"""Commands below `cocoop bench`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - open for as long as the process runs
    # File names may not be valid text; characters that cannot be encoded are printed as escapes, which JSON allows.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    command: Any = None

    def show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, CocoopWarning):
            note(with_flags(str(message), command))
        else:
            sys.stderr.write(warnings.formatwarning(message, category, *place[:2]))

    warnings.showwarning = show_warning  # type: ignore[assignment]
    try:
        command = _parse(list(sys.argv[1:] if arguments is None else arguments))
        command.run()
        sys.stdout.flush()
    except CocoopError as error:
        fail(with_flags(str(error), command), 1)
    except KeyboardInterrupt as stop:
        fail(with_flags(str(stop), command) or "Interrupted.", 130)
    except BrokenPipeError:
        # The program that reads our output, such as head, has ended.
        _discard_output()
        sys.exit(0)
    except OSError as error:
        _discard_output()
        fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.", 1)
    except (RuntimeError, MemoryError) as error:
        explanation = about_memory(error)
        if explanation is None:
            raise
        fail(with_flags(explanation, command), 1)


def _discard_output() -> None:
    """Discard buffered output; Python would try to write it again at exit, and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(arguments: list[str]) -> Any:
    if arguments and arguments[0] == "bench":
        return _parse_one(EXPERIMENTS, "cocoop bench", arguments[1:])
    if arguments == ["--version"]:
        sys.stdout.write(f"cocoop {__version__}\n")
        sys.exit(0)
    return _parse_one(COMMANDS, "cocoop", arguments, description=DESCRIPTION)


def _parse_one(commands: dict[str, Command], prog: str, arguments: list[str], description: str | None = None) -> Any:
    if arguments and arguments[0] in commands:
        command = commands[arguments[0]]
        kind = getattr(import_module(command.module), command.name)
        return _tyro(kind, f"{prog} {arguments[0]}", arguments[1:])
    # The overview, or an error about the first word, needs only names and summaries.
    stubs = [
        Annotated[dataclasses.make_dataclass(command.name, []), tyro.conf.subcommand(name, description=command.summary)]
        for name, command in commands.items()
    ]
    return _tyro(reduce(or_, stubs), prog, arguments or ["--help"], description=description)


def _tyro(kind: Any, prog: str, arguments: list[str], description: str | None = None) -> Any:
    return tyro.cli(
        kind,
        prog=prog,
        description=description,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )
