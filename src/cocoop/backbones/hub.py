"""Files of the Hugging Face hub, from its cache on this machine where they are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cocoop.errors import BackboneError

__all__ = ["TOKENIZER_FILES", "fetch", "unreachable"]

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


def fetch(repository: str, files: Sequence[str], model: str) -> Path:
    """A folder with those of the files that a repository has.

    Args:
        repository: `ORG/NAME` or `ORG/NAME@REVISION`, a branch, tag or commit.
        files: names, or patterns of names.
        model: what they are for, for messages.

    Raises:
        BackboneError: if there is no such repository or revision, or it is not cached and cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    name, _, revision = repository.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(files)))
    except HFValidationError as error:
        raise BackboneError(f"{repository!r} is no name of a hub repository; it must be ORG/NAME.") from error
    except RevisionNotFoundError as error:
        raise BackboneError(f"The hub's {name} has no revision {revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise BackboneError(
            f"The hub has no repository {name!r}, or keeps it for those who are logged in (`hf auth login`)."
        ) from error
    # The client lets through errors of its own and of two HTTP libraries, none of them related.
    except Exception as error:
        raise unreachable(model, error) from error


def unreachable(what: str, error: BaseException) -> BackboneError:
    """The error for what is not on this machine and cannot be downloaded.

    Args:
        what: the model or repository.
        error: what the download ended with; the reason is at the bottom of its chain.
    """
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return BackboneError(
        f"{what} is not on this machine and cannot be downloaded ({reason}). Connect once to fetch it, or go on "
        "without a network: --backbone lite"
    )
