"""From a folder, a manifest or a split file to a `Dataset`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from cocoop.data.catalog.entry import CatalogEntry, Place, data_root
from cocoop.data.catalog.read import read_catalog
from cocoop.data.catalog.table import find_entry
from cocoop.data.class_names import final_names, read_renames
from cocoop.data.dataset import Dataset, ImageRoot, Item, Split
from cocoop.data.readers.image_directories import IMAGE_SUFFIXES, read_directory
from cocoop.data.readers.manifests import read_manifest
from cocoop.data.readers.rows import Listing, divide
from cocoop.data.readers.split_files import read_split_file
from cocoop.data.shards.index import is_sharded, name_of_shards, read_shards
from cocoop.data.shards.source import shard_kind
from cocoop.errors import CocoopWarning, DataError

__all__ = ["load_data"]

_FORMATS = (
    "an image folder (class/photo.jpg, or train/class/photo.jpg), a manifest (.csv or .jsonl), a split file (.json),"
    " shards (.tar or .parquet), or the name of a data set of the papers (see `cocoop data list`)"
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
    """List the photos and classes of a data set; no photo is opened.

    Labels follow the sorted cleaned class names for folders, manifests and shards, the file's own labels for split
    files, and the papers' for data sets of the catalog. Names are cleaned (`hot_dog` to `hot dog`) and then renamed;
    renames do not change the labels.

    Args:
        source: an image folder, `class/photo.jpg` or `train|val|test/class/photo.jpg`; a `.csv` or `.jsonl`
            manifest with path, class and optionally split; a `.json` split file of the CoOp code; shards
            (WebDataset or Parquet), as `find_shards` takes them; or the name of a data set of the
            papers, such as `caltech101`. A file or folder of that name goes first, unless it is that
            data set's own folder or `data_root` or `splits` is given.
        image_root: the folder that the paths of a manifest or split file start from; by default the file's own,
            or, as the CoOp code has it, the folder beside a split file that holds its photos.
            For a data set of the papers, the folder of its photos, if it is not under the data root.
        renames: new class names: a `.json` file `{"old": "new"}`, a `.csv` file old,new, or a mapping.
        seed: of the split of data that come without one: half of each class to train, a fifth to val, the
            rest to test (Food101 and SUN397 without their split file: see `catalog_read`). Keep it the same in all
            runs that are compared. Data with splits do not use it.
        data_root: the folder under which the papers' data sets lie; COCOOP_DATA or the user's cache by default. Other
            data do not use it.
        splits: a folder with the papers' official split files; by default they are looked for in the data set's own.
            Other data do not use it.
        on_progress: called with the bytes of shards that are indexed, and all there are; other data take no time.

    Returns:
        The data set; see `Dataset.check_files` and `Dataset.check_trainable` before training.

    Raises:
        DataError: if the source is missing, of no known kind, malformed or contradicts itself.
    """
    path = Path(source).expanduser()
    images = None if image_root is None else Path(image_root).expanduser()
    found = _in_catalog(path, images, data_root, splits)
    shards = _address(source)
    root: ImageRoot
    if found is None and is_sharded(shards):
        if images is not None:
            raise DataError(f"'{shards}' holds its photos itself; leave out the image root '{images}'.")
        _tell_of_others(path, lambda file: file.suffix.lower() in IMAGE_SUFFIXES, "photos in no shard")
        listing, root = read_shards(shards, seed=seed, on_progress=on_progress)
        name, template = name_of_shards(shards), None
    elif found is None:
        _tell_of_others(path, lambda file: shard_kind(file.name) is not None, "shards (.tar, .parquet)")
        listing, root = _read(path, images)
        # The name of "." is only known from its absolute path; a folder may have a dot in its name.
        name, template = path.absolute().name if path.is_dir() else path.stem, None
        # A split file of the CoOp code says in its name what it is of, also where it was shortened or moved.
        entry = find_entry(path.stem.rpartition("_")[2]) if path.name.startswith("split_") else None
        if entry is not None:
            template = entry.template
            if entry.split_file is not None and path.name == entry.split_file.name:
                name = entry.name
    else:
        entry, place = found
        listing, root = read_catalog(entry, place, seed=seed), place.images
        name, template = entry.name, entry.template
    names = final_names(listing.classes, read_renames(renames))
    label_of = {raw: label for label, raw in enumerate(listing.classes)}
    rows = listing.rows if all(row.split for row in listing.rows) else divide(listing.rows, seed)

    def items(split: Split) -> tuple[Item, ...]:
        return tuple(Item(row.path, label_of[row.raw_class]) for row in rows if row.split == split)

    return Dataset(
        classnames=tuple(names),
        train=items("train"),
        val=items("val"),
        test=items("test"),
        image_root=root,
        name=name,
        template=template,
    )


def _address(source: str | Path) -> str:
    """The source as a text; a path has lost a slash of `s3://bucket`."""
    return re.sub(r"^(?!file:|local:)([a-z][a-z0-9+.-]+):/(?=[^/])", r"\1://", str(source))


def _tell_of_others(path: Path, others: Callable[[Path], bool], what: str) -> None:
    """A folder may hold photos and shards, because the photos came in an archive, or by mistake; one kind is read."""
    files = (file for file in path.iterdir() if file.is_file() and file.name[0] != ".") if path.is_dir() else ()
    count = sum(map(others, files))
    if count:
        warnings.warn(f"'{path}' also holds {count:,} {what}, which are passed over.", CocoopWarning, stacklevel=3)


def _in_catalog(
    source: Path, images: Path | None, given_root: str | Path | None, splits: str | Path | None
) -> tuple[CatalogEntry, Place] | None:
    """The data set of the papers that is meant, and where it is; None if the source is data of the user's own."""
    entry = find_entry(str(source))
    if entry is None:
        return None
    root = data_root(given_root)
    own_directory = root / entry.directory
    # In the data root itself, the name and the data set's folder are often the same.
    is_own = source.exists() and own_directory.exists() and source.samefile(own_directory)
    if source.exists() and not is_own and given_root is None and splits is None:
        return None
    for flag, directory in (("splits", splits), ("image root", images)):
        if directory is not None and not Path(directory).expanduser().is_dir():
            raise DataError(f"The {flag} '{directory}' is not a folder.")
    split_files = None if splits is None else Path(splits).expanduser()
    return entry, Place.of(entry, root, splits=split_files, image_root=images)


def _read(path: Path, image_root: Path | None) -> tuple[Listing, Path]:
    if not path.exists():
        raise DataError(f"There is no '{path}'. Give {_FORMATS}.")
    if path.is_dir():
        if image_root is not None:
            raise DataError(
                f"'{path}' is an image folder, which is its own image root; leave out"
                f" the image root '{image_root}'. It is meant for manifests and split files."
            )
        return read_directory(path), path
    if image_root is not None and not image_root.is_dir():
        raise DataError(f"The image root '{image_root}' is not a folder.")
    root = path.parent if image_root is None else image_root
    match path.suffix.lower():
        case ".csv" | ".jsonl" | ".ndjson":
            return read_manifest(path, root), root
        case ".json":
            listing = read_split_file(path, root)
            return listing, root if image_root else _image_directory(path.parent, listing)
    raise DataError(f"'{path}' is of no known kind ({path.suffix or 'no file ending'}). Give {_FORMATS}.")


def _image_directory(directory: Path, listing: Listing) -> Path:
    """The split file's folder, or the one in it where the first photo is: `images`, `101_ObjectCategories`, ..."""
    first = listing.rows[0].path
    if (directory / first).exists():
        return directory
    beside = sorted(entry for entry in directory.iterdir() if entry.is_dir() and (entry / first).is_file())
    return beside[0] if len(beside) == 1 else directory
