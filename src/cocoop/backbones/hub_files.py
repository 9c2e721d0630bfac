"""Files from the Hugging Face hub, or from its cache on this machine."""

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

GO_ON_WITH_LITE = "or go on without a network: --backbone lite"

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
    instead: str = GO_ON_WITH_LITE,
    **options: Any,
) -> Path:
    """A folder with those of the files that a repository has.

    Args:
        repository: `ORG/NAME` or `ORG/NAME@REVISION`, a branch, tag or commit.
        files: names, or patterns of names.
        model: what they are for, for messages.
        raises: class of the errors.
        instead: what to do without a network, besides connecting.
        options: further ones of `huggingface_hub.snapshot_download`, such as `token`.

    Raises:
        CocoopError: of the class `raises`, if there is no such repository or revision, it is not cached and cannot be
            reached, or a file is not what the hub has.
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
        raise raises(f"{repository!r} is no name of a hub repository; it must be ORG/NAME.") from error
    except RevisionNotFoundError as error:
        raise raises(f"The hub's {name} has no revision {revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise raises(
            f"The hub has no repository {name!r}, or keeps it for those who are logged in (`hf auth login`)."
        ) from error
    # The client lets through errors of its own and of two HTTP libraries, none of them related.
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
            raise raises(
                f"The hub does not accept your token for {name!r}; log in again with `hf auth login`, or mend HF_TOKEN."
            ) from error
        raise unreachable(model, error, raises, instead) from error
    for path in directory.rglob("*"):
        if path.is_file() and any(fnmatch(path.relative_to(directory).as_posix(), pattern) for pattern in files):
            _check_content(path, raises)
    return directory


def _check_content(path: Path, raises: type[CocoopError]) -> None:
    """That a file in the hub's cache is what the hub has, by the hash that the cache calls it by.

    Large files are known by their SHA-256, small ones by git's SHA-1. Where the cache cannot make links, as on some
    Windows, it keeps no hashes, and nothing is checked.
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
        raise raises(f"'{path}' is damaged: it is not what the hub has. Delete '{blob}'; it is then fetched again.")


def pinned(repository: str, directory: Path) -> str:
    """The repository at the commit that was fetched: what a name or a branch stands for may change.

    Args:
        repository: `ORG/NAME`, with @REVISION or without.
        folder: as `fetch` returned it; the hub's cache calls it by the commit.
    """
    return f"{repository.partition('@')[0]}@{directory.name}"


def unreachable(
    what: str,
    error: BaseException,
    raises: type[CocoopError] = BackboneError,
    instead: str = GO_ON_WITH_LITE,
) -> CocoopError:
    """The error for what is not on this machine and cannot be downloaded.

    Args:
        what: the model or repository.
        error: what the download ended with; the reason is at the bottom of its chain.
        raises: its class.
        instead: what to do without a network, besides connecting.
    """
    return raises(
        f"{what} is not on this machine and cannot be downloaded ({root_cause(error)}). "
        f"Connect once to fetch it, {instead}"
    )


def root_cause(error: BaseException) -> str:
    """Return the message of the exception that caused an exception, on one line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return one_line(error)
