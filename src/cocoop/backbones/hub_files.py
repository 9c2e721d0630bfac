"""Download files of the Hugging Face hub, or find them in its cache."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cocoop.errors import BackboneError, CocoopError, one_line
from cocoop.storage.hashing import hash_file

__all__ = ["TOKENIZER_FILES", "fetch", "pinned", "root_cause", "unreachable"]

USE_LITE = 'or use `backbone="lite"`, which needs no network'

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def fetch(
    repository: str,
    files: Sequence[str],
    model: str,
    *,
    raises: type[CocoopError] = BackboneError,
    instead: str = USE_LITE,
    **options: Any,
) -> Path:
    """Download files of a repository, unless they are cached.

    Args:
        repository: `ORG/NAME` or `ORG/NAME@REVISION` (a branch, tag or commit).
        files: names or patterns; those missing from the repository are skipped.
        model: name of the model, for messages.
        raises: class of the errors.
        instead: advice for users without a network.
        options: more arguments of `huggingface_hub.snapshot_download`, such as `token`.

    Returns:
        The directory with the files.

    Raises:
        CocoopError: of the class `raises`, if the repository or revision does not exist, it is neither cached nor
            reachable, or a cached file is damaged.
    """
    import huggingface_hub
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, _, revision = repository.partition("@")
    try:
        directory = Path(
            huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(files), **options)
        )
    except HFValidationError as error:
        raise raises(f"{repository!r} is not a repository name; it must be ORG/NAME.") from error
    except RevisionNotFoundError as error:
        raise raises(f"The hub's {name} has no revision {revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise raises(f"The hub has no repository {name!r}, or you must log in to see it (`hf auth login`).") from error
    # The client raises unrelated errors of its own and of two HTTP libraries.
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
            raise raises(
                f"The hub does not accept your token for {name!r}; log in again with `hf auth login`, or fix HF_TOKEN."
            ) from error
        raise unreachable(model, error, raises, instead) from error
    for path in directory.rglob("*"):
        if path.is_file() and any(fnmatch(path.relative_to(directory).as_posix(), pattern) for pattern in files):
            _check_content(path, raises)
    return directory


def _check_content(path: Path, raises: type[CocoopError]) -> None:
    """Compare a file in the hub's cache with the hash in its name.

    The cache names large files by their SHA-256 and small ones by git's SHA-1. Where it cannot create links, as on some
    Windows systems, file names hold no hash, and nothing is checked.
    """
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        found = hash_file(blob)
    elif re.fullmatch(r"[0-9a-f]{40}", blob.name):
        content = blob.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        return
    if found != blob.name:
        raise raises(f"'{path}' is damaged. Delete '{blob}' to download it again.")


def pinned(repository: str, directory: Path) -> str:
    """Return the repository with the commit that was downloaded, because names and branches may move.

    Args:
        repository: `ORG/NAME` or `ORG/NAME@REVISION`.
        directory: directory that `fetch` returned, which the hub's cache names after the commit.
    """
    return f"{repository.partition('@')[0]}@{directory.name}"


def unreachable(
    what: str,
    error: BaseException,
    raises: type[CocoopError] = BackboneError,
    instead: str = USE_LITE,
) -> CocoopError:
    """Return the error for a model that is neither cached nor reachable.

    Args:
        what: name of the model or repository.
        error: error of the download; the message names its root cause.
        raises: class of the error.
        instead: advice for users without a network.
    """
    return raises(
        f"{what} is not cached and cannot be downloaded ({root_cause(error)}). Connect once to download it, {instead}."
    )


def root_cause(error: BaseException) -> str:
    """Return the message of the first exception in a chain of causes, on one line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return one_line(error)
