"""`load_data`: a data set from an image directory, manifest, split file or shards, or by its name in the catalog."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cocoop.data.catalog.entry import CatalogEntry
from cocoop.data.catalog.location import Location
from cocoop.data.catalog.location import data_root as find_data_root
from cocoop.data.catalog.read import read_catalog
from cocoop.data.catalog.table import find_entry
from cocoop.data.class_names import clean_and_rename, read_renames
from cocoop.data.dataset import Dataset, ImageRoot, Item, Split
from cocoop.data.readers.image_directories import IMAGE_SUFFIXES, read_image_directory
from cocoop.data.readers.manifests import read_manifest
from cocoop.data.readers.rows import Listing, assign_splits
from cocoop.data.readers.split_files import read_split_file
from cocoop.data.shards.index import is_sharded, read_shards, shard_dataset_name
from cocoop.data.shards.source import shard_kind
from cocoop.errors import CocoopWarning, DataError

__all__ = ["load_data"]

_FORMATS = (
    "Use an image directory (class/image.jpg, or train/class/image.jpg), a manifest (.csv or .jsonl), a split file"
    " (.json), shards (.tar or .parquet), or the name of a data set of the papers (see `cocoop data list`)."
)


def load_data(
    source: str | Path,
    *,
    image_root: str | Path | None = None,
    renames: str | Path | Mapping[str, str] | None = None,
    seed: int = 0,
    data_root: str | Path | None = None,
    splits: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """List the images and classes of a data set; no image is opened.

    Class names are cleaned (`hot_dog` becomes `hot dog`), then renamed. Labels are those of the file for split files,
    those of the papers for data sets of the catalog, and follow the sorted cleaned names for all other sources. Renames
    do not change labels.

    Args:
        source: an image directory, `class/image.jpg` or `train|val|test/class/image.jpg`; a `.csv` or `.jsonl` manifest
            with path, class and optionally split; a `.json` split file of the CoOp code; WebDataset or Parquet shards,
            as for `find_shards`; or the name of a data set of the papers, such as `caltech101`. A file or directory of
            that name takes precedence, unless it is the data set's own, or `data_root` or `splits` is given.
        image_root: directory that the paths in a manifest or split file start from; by default the directory of the
            file, or the one beside a split file that holds its images. For a data set of the papers, the directory of
            its images, if they are not below the data root.
        renames: new class names: a `.json` file `{"old": "new"}`, a `.csv` file old,new, or a mapping.
        seed: seed of the split of data that have none: 50 % of each class to train, 20 % to val, 30 % to test. Use the
            same seed in all runs that you compare.
        data_root: directory of the papers' data sets; by default COCOOP_DATA or the user's cache.
        splits: directory of the papers' official split files; by default the data set's own.
        on_progress: called with the number of bytes of shards indexed so far, and in total.

    Returns:
        The data set; see `Dataset.check_files` and `Dataset.check_trainable` before training.

    Raises:
        DataError: if the source is missing, malformed, contradictory or of an unknown kind.

    Example:
        ```python
        import cocoop

        data = cocoop.load_data("photos")  # photos/cat/1.jpg, photos/dog/1.jpg, ...
        print(data.classnames, len(data.train), len(data.test))
        few = data.few_shot(16, seed=1)
        ```
    """
    path = Path(source).expanduser()
    # Path() removes a slash from `s3://bucket`; this restores it in the text.
    address = re.sub(r"^(?!file:|local:)([a-z][a-z0-9+.-]+):/(?=[^/])", r"\1://", str(source))
    entry = find_entry(str(source))
    if entry is not None and _is_from_catalog(entry, path, data_root, splits):
        found = _load_catalog(entry, Location.find(entry, data_root, splits=splits, image_root=image_root), seed)
    elif is_sharded(address):
        found = _load_shards(address, path, image_root, seed, on_progress)
    else:
        found = _load_files(path, None if image_root is None else Path(image_root).expanduser())
    listing = found.listing
    names = clean_and_rename(listing.classes, read_renames(renames))
    label_of = {raw: label for label, raw in enumerate(listing.classes)}
    rows = listing.rows if all(row.split for row in listing.rows) else assign_splits(listing.rows, seed)

    def items(split: Split) -> tuple[Item, ...]:
        return tuple(Item(row.path, label_of[row.raw_class]) for row in rows if row.split == split)

    return Dataset(
        classnames=tuple(names),
        train=items("train"),
        val=items("val"),
        test=items("test"),
        image_root=found.image_root,
        name=found.name,
        template=found.template,
    )


@dataclass(frozen=True)
class _Source:
    """Content of a source before its classes are renamed and its images are divided into splits."""

    listing: Listing
    image_root: ImageRoot
    name: str
    template: str | None = None


def _is_from_catalog(
    entry: CatalogEntry, source: Path, data_root: str | Path | None, splits: str | Path | None
) -> bool:
    """Return False if the source is the user's own file or directory with the name of a data set of the catalog."""
    if data_root is not None or splits is not None or not source.exists():
        return True
    # In the data root, the directory with that name may be the data set's own.
    own_directory = find_data_root() / entry.directory
    return own_directory.exists() and source.samefile(own_directory)


def _load_catalog(entry: CatalogEntry, location: Location, seed: int) -> _Source:
    return _Source(read_catalog(entry, location, seed=seed), location.images, entry.name, entry.template)


def _load_shards(
    address: str,
    path: Path,
    image_root: str | Path | None,
    seed: int,
    on_progress: Callable[[int, int], None] | None,
) -> _Source:
    if image_root is not None:
        raise DataError(f"The shards '{address}' hold their images themselves. Remove `image_root`.")
    _warn_about_ignored(path, "images outside of shards", lambda file: file.suffix.lower() in IMAGE_SUFFIXES)
    listing, index = read_shards(address, seed=seed, on_progress=on_progress)
    return _Source(listing, index, shard_dataset_name(address))


def _load_files(path: Path, image_root: Path | None) -> _Source:
    if not path.exists():
        raise DataError(f"There is no '{path}'. {_FORMATS}")
    if path.is_dir():
        if image_root is not None:
            raise DataError(f"'{path}' is an image directory, which is its own image root. Remove `image_root`.")
        _warn_about_ignored(path, "shards (.tar, .parquet)", lambda file: shard_kind(file.name) is not None)
        # The absolute path has a name even for "."; a directory may have a dot in its name.
        return _Source(read_image_directory(path), path, path.absolute().name)
    if image_root is not None and not image_root.is_dir():
        raise DataError(f"`image_root` is '{image_root}', which is not a directory.")
    root = image_root or path.parent
    match path.suffix.lower():
        case ".csv" | ".jsonl" | ".ndjson":
            return _Source(read_manifest(path, root), root, path.stem)
        case ".json":
            listing = read_split_file(path, root)
            name, template = _split_file_names(path)
            return _Source(listing, root if image_root else _directory_of_images(path.parent, listing), name, template)
    raise DataError(f"'{path}' has an unknown format ({path.suffix or 'no suffix'}). {_FORMATS}")


def _split_file_names(path: Path) -> tuple[str, str | None]:
    """Return name and template of the data set that a split file of the CoOp code has in its file name."""
    entry = find_entry(path.stem.rpartition("_")[2]) if path.name.startswith("split_") else None
    if entry is None:
        return path.stem, None
    is_official = entry.split_file is not None and path.name == entry.split_file.name
    return entry.name if is_official else path.stem, entry.template


def _directory_of_images(directory: Path, listing: Listing) -> Path:
    """Return the split file's directory, or its subdirectory that has the first image, such as `images` or `jpg`."""
    first = listing.rows[0].path
    if (directory / first).exists():
        return directory
    candidates = [entry for entry in directory.iterdir() if entry.is_dir() and (entry / first).is_file()]
    return candidates[0] if len(candidates) == 1 else directory


def _warn_about_ignored(path: Path, what: str, is_ignored: Callable[[Path], bool]) -> None:
    files = (file for file in path.iterdir() if file.is_file() and file.name[0] != ".") if path.is_dir() else ()
    count = sum(map(is_ignored, files))
    if count:
        warnings.warn(f"'{path}' also holds {count:,} {what}, which are ignored.", CocoopWarning, stacklevel=4)
