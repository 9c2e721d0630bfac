"""`cocoop data`: the data sets of the papers: which there are, where they are, getting and checking them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich import box, filesize
from rich.table import Table

from cocoop.cli.console import line, note, out, progress_bar
from cocoop.cli.options import OptionalPath, left_out
from cocoop.data.catalog.download import ByteProgress
from cocoop.data.catalog.entry import DATA_ROOT_VARIABLE, CatalogEntry, Place, data_root
from cocoop.data.catalog.fetch import fetch, instructions
from cocoop.data.catalog.table import CATALOG, catalog_entry
from cocoop.data.catalog.verify import Verification, verify
from cocoop.errors import DataError

__all__ = ["DataCommand"]

Names = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(required)")
]

SHOWN = 20
"""Missing files that are listed unless all are asked for."""


@dataclass(frozen=True, kw_only=True)
class RootOptions:
    """Where data sets lie."""

    data_root: OptionalPath = None
    """Folder of the papers' data sets, if not COCOOP_DATA or cocoop/data in your cache folder."""

    @property
    def root(self) -> Path:
        """The data root that is meant."""
        return data_root(self.data_root)


@dataclass(frozen=True, kw_only=True)
class PlaceOptions(RootOptions):
    """Where data sets and their lists lie."""

    splits: OptionalPath = None
    """Folder of the papers' split files (split_zhou_*.json), if not each data set's own."""

    def place(self, entry: CatalogEntry) -> Place:
        """Where a data set is, or would be.

        Raises:
            DataError: if the folder of splits is not there.
        """
        if self.splits is not None and not self.splits.expanduser().is_dir():
            raise DataError(f"--splits is '{self.splits}', which is not a folder.")
        return Place.of(entry, self.root, splits=self.splits and self.splits.expanduser())


@dataclass(frozen=True, kw_only=True)
class ListCommand(RootOptions):
    """The papers' data sets: size, whether they are on this machine, how to get them, terms of use."""

    format: Literal["table", "json"] = "table"
    """table; or json, with class counts, templates, addresses and checksums."""

    def run(self) -> None:
        """Print them."""
        places = {name: Place.of(entry, self.root) for name, entry in CATALOG.items()}
        if self.format == "json":
            rows = [
                asdict(entry) | {"directory": str(places[name].directory), "here": places[name].images.is_dir()}
                for name, entry in CATALOG.items()
            ]
            line(json.dumps(rows, ensure_ascii=False))
            return
        table = Table(title=f"Data sets under {self.root}", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        table.add_column("name", no_wrap=True)
        table.add_column("classes", justify="right", no_wrap=True)
        table.add_column("train / val / test", justify="right", no_wrap=True)
        table.add_column("here")
        table.add_column("terms of the photos", overflow="fold")
        for name, entry in CATALOG.items():
            here = "yes" if places[name].images.is_dir() else "by hand" if entry.by_hand else "no"
            sizes = " / ".join(f"{size:,}" for size in entry.sizes)
            table.add_row(name, f"{entry.classes:,}", sizes, here, entry.licence)
        out.print(table)
        note("Get one by `cocoop data download NAME`; then its name is data: `cocoop train NAME`.")


@dataclass(frozen=True, kw_only=True)
class DownloadCommand(PlaceOptions):
    """Get data sets from their owners, with the papers' official lists, and check them. Goes on where it stopped.

    What must be fetched by hand is explained step by step."""

    names: Names
    """Names of data sets; see `cocoop data list`."""
    keep_archives: bool = False
    """Keep the archives after unpacking them."""

    def run(self) -> None:
        """Fetch, then check.

        Raises:
            DataError: if a data set is still incomplete.
        """
        entries = _named(self.names)
        for entry in entries:
            place = self.place(entry)
            note(f"{entry.title}: {entry.source}; terms of the photos: {entry.licence}.")
            try:
                with _transfers() as on_stage:
                    fetch(entry, place, keep_archives=self.keep_archives, on_stage=on_stage)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("Stopped. The same command goes on from here.") from None
            place = self.place(entry)
            result = verify(entry, place)
            if not result.complete and entry.by_hand:
                line(instructions(entry, place))
                raise DataError(
                    f"The photos of {entry.title} must be fetched by hand, as above; then check them with"
                    f" `cocoop data verify {entry.name}`."
                )
            _report(entry, place, result, shown=SHOWN)


@dataclass(frozen=True, kw_only=True)
class VerifyCommand(PlaceOptions):
    """Check layout, official lists and numbers of photos, and list what is missing. Exit code 1 if incomplete."""

    names: Names
    """Names of data sets; see `cocoop data list`."""
    all_missing: bool = False
    """List everything that is missing, not only the first few."""

    def run(self) -> None:
        """Check and print.

        Raises:
            DataError: if a data set is incomplete.
        """
        incomplete = []
        for entry in _named(self.names):
            place = self.place(entry)
            try:
                _report(entry, place, verify(entry, place), shown=None if self.all_missing else SHOWN)
            except DataError as error:
                incomplete.append(str(error))
        if incomplete:
            raise DataError(" ".join(incomplete))


@dataclass(frozen=True, kw_only=True)
class WhereCommand(RootOptions):
    """Print the data root, or the folder of a data set's photos."""

    name: Annotated[tyro.conf.Positional[str | None], left_out("NAME", "the data root")] = None
    """Name of a data set."""

    def run(self) -> None:
        """Print a path."""
        path = self.root if self.name is None else Place.of(catalog_entry(self.name), self.root).images
        line(str(path.absolute()))
        if not path.is_dir():
            note(
                f"It is not there yet. --data-root or the environment variable {DATA_ROOT_VARIABLE} name another root."
            )


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
        """Run what was asked for."""
        self.action.run()


def _named(names: tuple[str, ...]) -> list[CatalogEntry]:
    if not names:
        raise DataError(f"Name a data set: {', '.join(CATALOG)}.")
    return [catalog_entry(name) for name in names]


def _report(entry: CatalogEntry, place: Place, result: Verification, *, shown: int | None) -> None:
    """Print what a check found.

    Raises:
        DataError: if the data set is incomplete.
    """
    for name in result.missing[:shown]:
        line(f"missing: {name}")
    if shown is not None and len(result.missing) > shown:
        note(
            f"... and {len(result.missing) - shown:,} more; `cocoop data verify {entry.name} --all-missing` lists all."
        )
    if not result.complete:
        raise DataError(f"{entry.title} in '{place.images}' is incomplete: {' '.join(result.problems)}")
    train, val, test = result.sizes
    counts = f"{result.classes:,} classes, {train:,} train, {val:,} val, {test:,} test photos"
    line(f"{entry.title} is complete: {counts}, in {place.images}")


@contextmanager
def _transfers() -> Iterator[Callable[[str], ByteProgress]]:
    """Progress of downloads and unpackings, one after the other."""
    with ExitStack() as running:

        def begin(what: str) -> ByteProgress:
            running.close()
            note(f"{what[:1].upper()}{what[1:]} ...")
            tell = running.enter_context(progress_bar(what))

            def advance(done: int, total: int | None) -> None:
                size = filesize.decimal(done)
                tell(done, total or done, size if total is None else f"{size} of {filesize.decimal(total)}")

            return advance

        yield begin
