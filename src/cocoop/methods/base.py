"""The base class of all methods: a frozen backbone, replaceable class names, logits from image features.

Shapes: B images of 3 channels and S x S pixels, b images of a part of a batch, C classes, e joint embedding size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cocoop.backbones.backbone import Backbone
from cocoop.config import Preprocessing
from cocoop.errors import CheckpointError, ConfigError
from cocoop.text.prompts import check_classnames

__all__ = ["Method", "seeded"]

M = TypeVar("M", bound="Method")


class Method(nn.Module):
    """A classifier that compares images with prompts of class names.

    Args:
        backbone: the frozen model; several methods may share one.
        classnames: names of the classes, in label order.

    Raises:
        PromptError: if a class name cannot be used in a prompt.
    """

    key: ClassVar[str]
    """Name of the method on the command line and in saved runs."""

    def __init__(self, backbone: Backbone, classnames: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.classnames = check_classnames(classnames)

    @abstractmethod
    def learned(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained and saved, by name."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the other arguments, besides backbone and class names, that rebuild this method, as plain JSON."""

    @abstractmethod
    def build_prompts(self, classnames: tuple[str, ...]) -> None:
        """Build the prompts of checked class names; called by `__init__` and `set_classes`.

        Raises:
            PromptError: if a class name cannot be used in a prompt; the old prompts stay.
        """

    @abstractmethod
    def text_features(self, image_features: Float[Tensor, "B e"]) -> Float[Tensor, "_ C e"]:
        """Return L2-normalised text features of all classes for each L2-normalised image; one row if equal for all."""

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Replace the classes and keep the learned parameters.

        Args:
            classnames: any names, seen in training or not, in label order.

        Raises:
            PromptError: if a class name cannot be used in a prompt; the old classes stay.
        """
        names = check_classnames(classnames)
        self.build_prompts(names)
        self.classnames = names

    def logits(self, image_features: Float[Tensor, "B e"]) -> Float[Tensor, "B C"]:
        """Return scaled cosine similarities of images and classes in fp32 (CoCoOp, equations 1 and 4).

        Args:
            image_features: from `backbone.encode_image`, normalised or not.
        """
        images = F.normalize(image_features.float(), dim=-1)
        return self._similarities(images, self.text_features(images))

    def logits_of(self, classes: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Return a function like `logits` that computes only some of the classes.

        Args:
            classes: labels of these classes.
        """
        return lambda image_features: self.logits(image_features)[:, list(classes)]

    def images_at_once(self, batch_size: int) -> int:
        """Return the number of images per forward pass in training; it depends on the classes, not on free memory."""
        return batch_size

    def losses(
        self,
        image_features: Float[Tensor, "B e"],
        labels: Int64[Tensor, " B"],
        logits: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[tuple[Float[Tensor, ""], Float[Tensor, "b C"]]]:
        """Compute the mean cross-entropy of a batch in parts; call `backward` on each part before taking the next.

        Args:
            image_features: from `backbone.encode_image`.
            labels: the true classes.
            logits: a function to use in place of `self.logits`.

        Yields:
            The loss of `images_at_once` images, divided by the batch size, and their logits. The values and gradients
            of all parts add up to those of the batch.
        """
        size = self.images_at_once(len(labels))
        for features, targets in zip(image_features.split(size), labels.split(size), strict=True):
            scores = (logits or self.logits)(features)
            yield F.cross_entropy(scores, targets, reduction="sum") / len(labels), scores

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Return a function like `logits` for inference, which computes the part that all images share only once."""
        return torch.no_grad()(self.logits)

    def shortlist_scorer(self, shortlist: int) -> Callable[[Tensor], Tensor]:  # noqa: ARG002 - only CoCoOp uses it
        """Return a function like `logits` for inference that computes only the most promising classes.

        Raises:
            ConfigError: if the prompts are the same for all images, so that there is nothing to save.
        """
        raise ConfigError(f"`shortlist` is for CoCoOp; {self.key} has the same prompt for every image. Leave it out.")

    def image_scorer(self, shortlist: int | None = None) -> Callable[[Tensor], Tensor]:
        """Return a function from preprocessed images (B, 3, S, S) to logits (B, C), for inference.

        Args:
            shortlist: argument of `shortlist_scorer`; None: logits of all classes.

        Raises:
            ConfigError: if the method has no shortlist, or it is too small.
        """
        scorer = self.scorer() if shortlist is None else self.shortlist_scorer(shortlist)
        return lambda images: scorer(self.backbone.encode_image(images))

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B C"]:
        """Return the logits of preprocessed images."""
        return self.logits(self.backbone.encode_image(images))

    @property
    def preprocessing(self) -> Preprocessing:
        """Image preprocessing of the backbone."""
        return self.backbone.preprocessing

    @property
    def saved_classnames(self) -> tuple[str, ...]:
        """Class names to save with the learned parameters."""
        return self.classnames

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_options: Any,
    ) -> str | None:
        """Save this method like `cocoop.save_pretrained`, and optionally publish it.

        Args:
            save_directory: created if missing.
            push_to_hub: also publish the method.
            repo_id: name of the hub repository; None: the name of the directory.
            model_card_kwargs: arguments of the model card, such as `license`.
            push_options: further arguments of `push_to_hub`.

        Returns:
            The URL of the commit, if the method was published.
        """
        from cocoop.checkpoints.pretrained import save_pretrained

        save_pretrained(self, save_directory, model_card_kwargs=model_card_kwargs)
        if not push_to_hub:
            return None
        card = {"directory": save_directory} | (model_card_kwargs or {})
        return self.push_to_hub(repo_id or Path(save_directory).name, model_card_kwargs=card, **push_options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish this method on the Hugging Face hub; see `cocoop.checkpoints.hub.push_to_hub`."""
        from cocoop.checkpoints.hub import push_to_hub

        return push_to_hub(self, repo_id, **options)

    @classmethod
    def from_pretrained(cls: type[M], pretrained_model_name_or_path: str | Path, **options: Any) -> M:
        """Load a saved method of this class; see `cocoop.from_pretrained`, which loads any method.

        Raises:
            CocoopError: if it cannot be loaded, or holds another method.
        """
        from cocoop.checkpoints.pretrained import from_pretrained

        method = from_pretrained(pretrained_model_name_or_path, **options)
        if not isinstance(method, cls):
            raise CheckpointError(
                f"'{pretrained_model_name_or_path}' holds a {method.key} prompt, not {cls.key}; load it with "
                "cocoop.from_pretrained."
            )
        return method

    def _similarities(self, images: Tensor, texts: Tensor) -> Tensor:
        scale = self.backbone.logit_scale.exp()
        if texts.shape[0] == 1:
            return scale * images @ texts[0].T
        return scale * torch.einsum("be,bce->bc", images, texts)


@contextmanager
def seeded(seed: int | None):  # type: ignore[no-untyped-def]
    """Seed random numbers within a block, and restore the global generator afterwards; None: do nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the accelerator too, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(seed)
        yield
