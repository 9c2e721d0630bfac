"""Publish trained prompts on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from cocoop.backbones.hub_files import root_cause
from cocoop.checkpoints.model_card import CARD, model_card
from cocoop.checkpoints.pretrained import method_config, write_method
from cocoop.errors import CheckpointError, CocoopError, one_line
from cocoop.methods import Method
from cocoop.storage.atomic import write_atomic

__all__ = ["hub_errors", "push_to_hub"]


def push_to_hub(
    method: Method,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "A prompt trained with cocoop",
    branch: str | None = None,
    create_pr: bool | None = None,
    model_card_kwargs: dict[str, Any] | None = None,
) -> str:
    """Publish settings, learned tensors and model card.

    Args:
        method: the method.
        repo_id: `USER/NAME`; the repository is created if missing.
        private: True: only you, or your organisation, may read it; None: the default of your organisation.
        token: token of the hub; None: the one you logged in with.
        commit_message: message of the commit.
        branch: branch to push to; None: `main`.
        create_pr: open a pull request instead of pushing to the branch.
        model_card_kwargs: further arguments of `cocoop.checkpoints.model_card.model_card`, such as the run `directory`
            or `license`.

    Returns:
        The URL of the commit.

    Raises:
        CheckpointError: if the hub cannot be reached or refuses the upload, or the card cannot be written.
    """
    # Built first: if it fails, no empty repository is left behind.
    card = model_card(method_config(method), **({"repo_id": repo_id} | (model_card_kwargs or {})))
    with hub_errors(repo_id), tempfile.TemporaryDirectory() as directory:
        api = HfApi(token=token)
        if private:
            _check_not_public(api, repo_id)
        write_method(method, Path(directory))
        write_atomic(Path(directory) / CARD, str(card).encode(errors="backslashreplace"))
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=directory,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
        )
        return str(commit)


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of writing to the hub into a CheckpointError with one line of advice."""
    try:
        yield
    except CocoopError:
        raise
    except HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is not the name of a hub repository; it must be USER/NAME.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise CheckpointError(
                f"You are not logged in to the hub, so you cannot push to {repo_id!r}; log in with `hf auth login`, or "
                "set HF_TOKEN to a token with write access."
            ) from error
        if status == 403:
            raise CheckpointError(
                f"Your token may not write to {repo_id!r}; push to your own name (`hf auth whoami` shows it), or log "
                "in with a token that has write access (`hf auth login`)."
            ) from error
        raise CheckpointError(f"The hub refused {repo_id!r}: {error.server_message or root_cause(error)}.") from error
    # huggingface_hub raises it for invalid metadata of the card.
    except ValueError as error:
        raise CheckpointError(f"The hub refused {repo_id!r}: {one_line(error)}.") from error
    except Exception as error:
        raise CheckpointError(
            f"Could not write {repo_id!r} on the hub ({root_cause(error)}). Check the network, and push again."
        ) from error


def _check_not_public(api: HfApi, repo_id: str) -> None:
    # The hub ignores `private` for a repository that exists.
    try:
        is_public = not api.model_info(repo_id).private
    except RepositoryNotFoundError:
        return
    if is_public:
        raise CheckpointError(
            f"The hub's {repo_id} is public already; make it private in its settings, push to another name, or leave "
            "`private=True` out."
        )
