"""`cocoop data`: list, download, verify and locate the data sets of the papers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro
from rich import box, filesize
from rich.table import Table

from cocoop.cli.console import line, note, out, progress_bar
from cocoop.cli.options import OptionalPath, optional_flag
from cocoop.data.catalog.datasets import download_dataset, list_datasets, verify_dataset
from cocoop.data.catalog.download import ByteProgress
from cocoop.data.catalog.location import DATA_ROOT_VARIABLE, Location, data_root
from cocoop.data.catalog.table import CATALOG, catalog_entry
from cocoop.data.catalog.verify import Verification
from cocoop.errors import DataError

__all__ = ["DataCommand"]

Names = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(required)")
]

MAX_MISSING = 20
"""Number of missing files to list by default."""


@dataclass(frozen=True, kw_only=True)
class RootOptions:
    """Directory of the data sets."""

    data_root: OptionalPath = None
    """Directory of the papers' data sets (default: COCOOP_DATA, else cocoop/data in your cache directory)."""


@dataclass(frozen=True, kw_only=True)
class LocationOptions(RootOptions):
    """Directories of the data sets and their lists."""

    names: Names
    """Names of data sets; see `cocoop data list`."""
    splits: OptionalPath = None
    """Directory of the papers' split files, split_zhou_*.json (default: the directory of each data set)."""

    def check_names(self) -> None:
        """Check all names, before the first data set is downloaded or verified.

        Raises:
            DataError: if there is none, or one is unknown.
        """
        if not self.names:
            raise DataError(f"Name a data set: {', '.join(CATALOG)}.")
        for name in self.names:
            catalog_entry(name)


@dataclass(frozen=True, kw_only=True)
class ListCommand(RootOptions):
    """List the papers' data sets: size, whether they are on this machine, terms of use."""

    format: Literal["table", "json"] = "table"
    """table; or json, with class counts, templates, addresses and checksums."""

    def run(self) -> None:
        """Print the list."""
        datasets = list_datasets(self.data_root)
        if self.format == "json":
            rows = [
                asdict(dataset.entry) | {"directory": str(dataset.directory), "available": dataset.available}
                for dataset in datasets
            ]
            line(json.dumps(rows, ensure_ascii=False))
            return
        title = f"Data sets in {data_root(self.data_root)}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        table.add_column("name", no_wrap=True)
        table.add_column("classes", justify="right", no_wrap=True)
        table.add_column("train / val / test", justify="right", no_wrap=True)
        table.add_column("here")
        table.add_column("terms of use of the photos", overflow="fold")
        for dataset in datasets:
            entry = dataset.entry
            here = "yes" if dataset.available else "by hand" if entry.instructions else "no"
            sizes = " / ".join(f"{size:,}" for size in entry.sizes)
            table.add_row(entry.name, f"{entry.classes:,}", sizes, here, entry.licence)
        out.print(table)
        note("Download one with `cocoop data download NAME`, then use its name as data: `cocoop train NAME`.")


@dataclass(frozen=True, kw_only=True)
class DownloadCommand(LocationOptions):
    """Download data sets from their owners, with the papers' official split files, and check them.

    Interrupted downloads continue. Steps that must be done by hand are explained."""

    keep_archives: bool = False
    """Keep the archives after unpacking them."""

    def run(self) -> None:
        """Download, check and print the results.

        Raises:
            DataError: if a data set is incomplete.
        """
        self.check_names()
        for name in self.names:
            entry = catalog_entry(name)
            note(f"{entry.title}: {entry.homepage}; terms of use of the photos: {entry.licence}.")
            try:
                with _stages() as on_stage:
                    result = download_dataset(
                        name,
                        data_root=self.data_root,
                        splits=self.splits,
                        keep_archives=self.keep_archives,
                        on_stage=on_stage,
                    )
            except KeyboardInterrupt:
                raise KeyboardInterrupt("Stopped. Run the same command to continue.") from None
            if not result.complete and result.instructions:
                line(result.instructions)
                raise DataError(
                    f"The images of {entry.title} must be downloaded by hand, as explained above. Then check them with"
                    f" `cocoop data verify {entry.name}`."
                )
            _print_result(result, limit=MAX_MISSING)


@dataclass(frozen=True, kw_only=True)
class VerifyCommand(LocationOptions):
    """Check layout, split files and numbers of images, and list missing files. Exit code 1 if incomplete."""

    all_missing: bool = False
    """List all missing files, not only the first 20."""

    def run(self) -> None:
        """Check and print the results.

        Raises:
            DataError: if a data set is incomplete.
        """
        self.check_names()
        incomplete = []
        for name in self.names:
            result = verify_dataset(name, data_root=self.data_root, splits=self.splits)
            try:
                _print_result(result, limit=None if self.all_missing else MAX_MISSING)
            except DataError as error:
                incomplete.append(str(error))
        if incomplete:
            raise DataError(" ".join(incomplete))


@dataclass(frozen=True, kw_only=True)
class WhereCommand(RootOptions):
    """Print the directory of all data sets, or of the images of one."""

    name: Annotated[tyro.conf.Positional[str | None], optional_flag("NAME", "the directory of all data sets")] = None
    """Name of a data set."""

    def run(self) -> None:
        """Print a path."""
        root = data_root(self.data_root)
        path = root if self.name is None else Location.find(catalog_entry(self.name), root).images
        line(str(path.absolute()))
        if not path.is_dir():
            note(f"It does not exist yet. To use another directory, set --data-root or {DATA_ROOT_VARIABLE}.")


@dataclass(frozen=True, kw_only=True)
class DataCommand:
    """The data sets of the papers: list, download, verify, where."""

    action: (
        Annotated[ListCommand, tyro.conf.subcommand("list")]
        | Annotated[DownloadCommand, tyro.conf.subcommand("download")]
        | Annotated[VerifyCommand, tyro.conf.subcommand("verify")]
        | Annotated[WhereCommand, tyro.conf.subcommand("where")]
    )

    def run(self) -> None:
        """Run the subcommand."""
        self.action.run()


def _print_result(result: Verification, *, limit: int | None) -> None:
    """Print the result of a check.

    Raises:
        DataError: if the data set is incomplete.
    """
    entry = result.entry
    for name in result.missing[:limit]:
        line(f"missing: {name}")
    if limit is not None and len(result.missing) > limit:
        command = f"cocoop data verify {entry.name} --all-missing"
        note(f"... and {len(result.missing) - limit:,} more; `{command}` lists all.")
    if not result.complete:
        raise DataError(f"{entry.title} in '{result.images}' is incomplete: {' '.join(result.problems)}")
    train, val, test = result.sizes
    counts = f"{result.classes:,} classes, {train:,} train, {val:,} val, {test:,} test images"
    line(f"{entry.title} is complete: {counts}, in {result.images}")


@contextmanager
def _stages() -> Iterator[Callable[[str], ByteProgress]]:
    """Show the progress of each download and of unpacking, one stage after the other."""
    with ExitStack() as running:

        def start_stage(stage: str) -> ByteProgress:
            running.close()
            note(f"{stage[:1].upper()}{stage[1:]} ...")
            update = running.enter_context(progress_bar(stage))

            def advance(done: int, total: int | None) -> None:
                size = filesize.decimal(done)
                update(done, total or done, size if total is None else f"{size} of {filesize.decimal(total)}")

            return advance

        yield start_stage
