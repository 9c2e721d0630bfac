"""What every method shares: a frozen backbone, class names that can be swapped, logits from features.

Shapes: B images of 3 channels and S x S pixels, b of them, C classes, e joint embedding size.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, ModelHubMixin
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cocoop.backbones.backbone import Backbone
from cocoop.backbones.hub_files import check_private, publishing
from cocoop.config import Preprocessing
from cocoop.errors import CheckpointError, ConfigError
from cocoop.storage.atomic import remove_stale_files, write_atomic
from cocoop.storage.json_files import write_json
from cocoop.storage.tensor_files import CARD, CONFIG, FORMAT, LEARNED, SAVE_ID, write_tensors
from cocoop.text.prompts import check_classnames

__all__ = ["Method", "seeded"]

M = TypeVar("M", bound="Method")


class Method(nn.Module, ModelHubMixin):
    """A way to classify images by their similarity to texts.

    Args:
        backbone: the frozen model; several methods may share one.
        classnames: names of the classes, in label order.

    Raises:
        PromptError: for names that cannot be made into prompts.
    """

    key: ClassVar[str]
    """The method's name on the command line and in saved runs."""

    def __init__(self, backbone: Backbone, classnames: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.classnames = check_classnames(classnames)

    @abstractmethod
    def learned(self) -> dict[str, nn.Parameter]:
        """The tensors that training changes and a checkpoint holds, by name."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Keyword arguments that, with backbone and class names, make this method again; plain JSON."""

    @abstractmethod
    def set_classes(self, classnames: Sequence[str]) -> None:
        """Classify among other classes from now on, keeping what was learned.

        Args:
            classnames: any names, trained on or not, in label order.

        Raises:
            PromptError: for names that cannot be made into prompts; the old classes stay.
        """

    @abstractmethod
    def text_features(self, image_features: Float[Tensor, "B e"]) -> Float[Tensor, "_ C e"]:
        """L2-normalised class features for each of the L2-normalised images, one row where they are the same."""

    def logits(self, image_features: Float[Tensor, "B e"]) -> Float[Tensor, "B C"]:
        """Scaled cosine similarities of images and classes, in fp32 (CoCoOp, equations 1 and 4).

        Args:
            image_features: as `backbone.encode_image` gives them, normalised or not.
        """
        images = F.normalize(image_features.float(), dim=-1)
        return self._similarities(images, self.text_features(images))

    def logits_of(self, classes: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """`logits` of some of the classes, without the work for the others.

        Args:
            classes: their labels.
        """
        return lambda image_features: self.logits(image_features)[:, list(classes)]

    def images_at_once(self, batch: int) -> int:
        """How many images of a batch to learn from in one pass; it depends on the classes, never on free memory."""
        return batch

    def losses(
        self,
        image_features: Float[Tensor, "B e"],
        labels: Int64[Tensor, " B"],
        logits_of_all: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[tuple[Float[Tensor, ""], Float[Tensor, "b C"]]]:
        """Mean cross-entropy over the batch, in parts: take the gradient of each before asking for the next.

        Args:
            image_features: as `backbone.encode_image` gives them.
            labels: the true classes.
            logits_of_all: in place of `logits`.

        Yields:
            Of `images_at_once` images each: their share of the batch's loss, so that values and gradients of all
            parts add up to the batch's, and their logits.
        """
        size = self.images_at_once(len(labels))
        for features, true in zip(image_features.split(size), labels.split(size), strict=True):
            logits = (logits_of_all or self.logits)(features)
            yield F.cross_entropy(logits, true, reduction="sum") / len(labels), logits

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """`logits` for inference: what does not depend on the image is computed once, here, without gradients."""
        return torch.no_grad()(self.logits)

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are made ready."""
        return self.backbone.preprocessing

    def image_scorer(self, shortlist: int | None = None) -> Callable[[Tensor], Tensor]:
        """From preprocessed images (B, 3, S, S) to logits (B, C), for inference.

        Args:
            shortlist: K, as in `shortlist_scorer`; None: exact logits of all classes.

        Raises:
            ConfigError: as `shortlist_scorer`.
        """
        scorer = self.scorer() if shortlist is None else self.shortlist_scorer(shortlist)
        return lambda images: scorer(self.backbone.encode_image(images))

    @property
    def saved_classnames(self) -> tuple[str, ...]:
        """The names that a saved method is made with again; those it knows now, where any will do."""
        return self.classnames

    def saved_config(self) -> dict[str, Any]:
        """What makes this method again, besides its learned tensors: the content of config.json."""
        return {
            "format": FORMAT,
            "method": self.key,
            "backbone": self.backbone.name,
            "precision": self.backbone.precision,
            "classnames": list(self.saved_classnames),
            "settings": self.settings(),
        }

    def write_learned(self, directory: Path) -> None:
        """Write the learned tensors, beside settings that are there already.

        Raises:
            CheckpointError: if the disk refuses.
        """
        write_tensors(directory / LEARNED, self.learned(), {SAVE_ID: _digest(self.saved_config())})

    def write(self, directory: Path) -> None:
        """Write settings and learned tensors, without a model card.

        Raises:
            CheckpointError: if the disk refuses.
        """
        for name in (LEARNED, CONFIG, CARD):
            remove_stale_files(directory, name)
        self.write_learned(directory)
        config = self.saved_config()
        # Class names may be edited; the entry stays, and tells that the two files were written together.
        write_json(directory / CONFIG, config | {SAVE_ID: _digest(config)})

    # The mixin's own would delete the old config.json before it writes, and go to the hub for a mistyped folder.
    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write settings, learned tensors, and a model card unless there is one; `cocoop.from_pretrained` reads them.

        Args:
            save_directory: made if it is missing. The backbone is saved by its name, not by its weights.
            push_to_hub: also publish it.
            repo_id: where; None: under the name of the folder.
            model_card_kwargs: for `generate_model_card`.
            push_to_hub_kwargs: for `push_to_hub`.

        Returns:
            The address of the commit, if it was published.

        Raises:
            CheckpointError: if the disk or the hub refuses.
        """
        directory = Path(save_directory)
        card = {"directory": directory} | (model_card_kwargs or {})
        self.write(directory)
        if not (directory / CARD).exists():
            # A class name need not be text.
            write_atomic(directory / CARD, str(self.generate_model_card(**card)).encode(errors="backslashreplace"))
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or directory.name, model_card_kwargs=card, **push_to_hub_kwargs)

    def generate_model_card(
        self, *, directory: str | Path | None = None, repo_id: str = "USER/NAME", **card_data: Any
    ) -> ModelCard:
        """The model card: what it is, made from what, how good, how to load it.

        Args:
            folder: of a run, whose records it tells; the card in it is taken where there is one.
            repo_id: where the method is published.
            card_data: fields of `huggingface_hub.ModelCardData`, such as `license`, in place of ours.

        Raises:
            CheckpointError: if a record or the card is damaged.
        """
        from cocoop.checkpoints.model_card import model_card

        return model_card(self.saved_config(), None if directory is None else Path(directory), repo_id, **card_data)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish settings, learned tensors and model card on the Hugging Face hub, in a repository made if missing.

        Args:
            repo_id: `USER/NAME`.
            options: those of `huggingface_hub.ModelHubMixin.push_to_hub`: private, token, commit_message, branch,
                create_pr, ...; model_card_kwargs are those of `generate_model_card`.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: if the hub cannot be reached or refuses, saying why.
        """
        card = {"repo_id": repo_id} | (options.pop("model_card_kwargs", None) or {})
        # A card that cannot be made must not leave an empty repository.
        self.generate_model_card(**card)
        with publishing(repo_id):
            # The hub leaves a repository that exists as visible as it is.
            if options.get("private"):
                check_private(repo_id, options.get("token"))
            return str(super().push_to_hub(repo_id, model_card_kwargs=card, **options))

    @classmethod
    def from_pretrained(cls: type[M], pretrained_model_name_or_path: str | Path, **options: Any) -> M:
        """Read a saved method of this kind; arguments as `cocoop.from_pretrained`, which reads any.

        Raises:
            CocoopError: as there, and for a method of another kind.
        """
        from cocoop.checkpoints.pretrained import from_pretrained

        method = from_pretrained(pretrained_model_name_or_path, **options)
        if not isinstance(method, cls):
            raise CheckpointError(
                f"'{pretrained_model_name_or_path}' is of {method.key}, not of {cls.key}; read it with "
                "cocoop.from_pretrained."
            )
        return method

    def shortlist_scorer(self, shortlist: int) -> Callable[[Tensor], Tensor]:  # noqa: ARG002 - CoCoOp has one
        """`logits` of the most promising classes only, where computing all of them costs something.

        Raises:
            ConfigError: for a method whose class features are the same for every image.
        """
        raise ConfigError(f"`shortlist` is for CoCoOp; {self.key} has the same prompt for every image. Leave it out.")

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B C"]:
        """Logits of preprocessed images."""
        return self.logits(self.backbone.encode_image(images))

    def _similarities(self, images: Tensor, texts: Tensor) -> Tensor:
        scale = self.backbone.logit_scale.exp()
        if texts.shape[0] == 1:
            return scale * images @ texts[0].T
        return scale * torch.einsum("be,bce->bc", images, texts)


def _digest(config: dict[str, Any]) -> str:
    # Not as long as a checksum of the file, which people who edit it need not keep.
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def seeded(seed: int | None):  # type: ignore[no-untyped-def]
    """Draw a method's initial values from `seed`, leaving the global generator as it was; None: from that one."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the accelerator too, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(seed)
        yield
