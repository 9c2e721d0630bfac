"""What is behind the routes: checks, decoding, the queue, and answers."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from fastapi import UploadFile
from torch import Tensor

from cocoop.data import test_transform
from cocoop.data.images import ImageError
from cocoop.errors import PromptError
from cocoop.methods import Method
from cocoop.serving.batching import Batcher
from cocoop.serving.error_responses import ApiError
from cocoop.serving.limits import ServeConfig
from cocoop.serving.schemas import (
    Answer,
    ClassProbability,
    Health,
    ImageAnswer,
    Limits,
    Problem,
    Shift,
    ZeroShotAnswer,
)
from cocoop.serving.scoring import Classes, Engine, Scores
from cocoop.serving.uploads import read_upload
from cocoop.version import __version__

__all__ = ["Service"]


class Service:
    """What is behind the routes; its methods belong to the thread of the event loop.

    Args:
        method: what classifies; from now on only the service uses it.
        config: the limits.
    """

    def __init__(self, method: Method, config: ServeConfig) -> None:
        self._method = method
        self._config = config
        engine = Engine(method)
        self._context_norm = engine.context_norm
        self._batcher = Batcher(engine, window=config.batch_window_ms / 1000, max_batch=config.max_batch)
        self._transform = test_transform(method.backbone.preprocessing)
        # Decoded photos are large: only a few at a time.
        self._decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "cocoop-decoder")
        self._waiting = 0

    def start(self) -> None:
        """Begin to work."""
        self._batcher.start()

    def stop(self) -> None:
        """Finish what is begun; what nobody waits for any more is not begun."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._batcher.stop()

    def health(self) -> Health:
        """What `GET /v1/health` answers."""
        return Health(
            status="ok",
            version=__version__,
            method=self._method.key,
            backbone=self._method.backbone.name,
            classes=list(self._method.classnames),
            queue=self._waiting,
            limits=Limits.model_validate(self._config, from_attributes=True),
        )

    def names(self, fields: Sequence[str] | None) -> tuple[str, ...]:
        """The class names of a request.

        Raises:
            Refusal: for too many, one alone, or one that is too long or no text.
        """
        names = tuple(name.strip() for lines in fields or () for name in lines.splitlines() if name.strip())
        limit, longest = self._config.max_classes, self._config.max_name_length
        if len(names) > limit:
            message = f"The request names {len(names)} classes; this server takes up to {limit}."
            raise ApiError(422, "too_many_classes", message)
        for name in names:
            if len(name) > longest:
                message = f"The class name '{name[:50]}…' has {len(name)} characters; the limit is {longest}."
                raise ApiError(422, "class_name_too_long", message)
            if name != _as_text(name):
                message = f"The class name '{_as_text(name)}' is no valid Unicode (shown with ? for what is wrong)."
                raise ApiError(422, "class_name_not_text", message)
        if len(names) == 1:
            message = (
                f"The request names one class, '{names[0]}'; give two or more, each in a field or line of its own."
            )
            raise ApiError(422, "too_few_classes", message)
        return names or self._method.classnames

    async def predict(self, images: Sequence[UploadFile], classes: Classes, top_k: int) -> Answer:
        """What `POST /v1/predict` answers.

        Raises:
            Refusal: for too many photos, a full queue, names that cannot be made into prompts, or lack of time.
        """
        config = self._config
        if len(images) > config.max_images:
            message = f"The request has {len(images)} photos; this server takes up to {config.max_images} at once."
            raise ApiError(422, "too_many_images", message)
        if self._waiting + len(images) > config.max_waiting:
            message = f"{self._waiting} photos are waiting already; try again in a moment."
            raise ApiError(429, "queue_full", message, {"Retry-After": "1"})
        self._waiting += len(images)
        try:
            with _forgetting_images():
                answers = await asyncio.wait_for(self._answers(images, classes, top_k), config.timeout)
        except asyncio.TimeoutError:
            message = f"The answer took longer than {config.timeout:g} seconds; send fewer photos or classes at once."
            raise ApiError(504, "timeout", message) from None
        except PromptError as error:
            raise ApiError(422, "unusable_classes", str(error)) from error
        finally:
            self._waiting -= len(images)
        return Answer(method=self._method.key, images=answers)

    async def _answers(self, images: Sequence[UploadFile], classes: Classes, top_k: int) -> list[ImageAnswer]:
        files = [_as_text(image.filename or f"photo {number}") for number, image in enumerate(images, 1)]
        read = await asyncio.gather(*map(self._read, images, files))
        tensors = [tensor for tensor in read if isinstance(tensor, Tensor)]
        scored: Iterator[Scores] = iter(())
        if tensors:
            scores = await asyncio.wrap_future(self._batcher.submit(torch.stack(tensors), classes))
            scored = iter(scores)
        return [
            _unreadable(file, tensor)
            if isinstance(tensor, str)
            else self._classified(file, next(scored), classes.names, top_k)
            for file, tensor in zip(files, read, strict=True)
        ]

    async def _read(self, image: UploadFile, name: str) -> Tensor | str:
        """A photo as a tensor, or what is wrong with it."""
        loop, limit = asyncio.get_running_loop(), self._config.max_pixels
        try:
            return await loop.run_in_executor(self._decoders, read_upload, image.file, name, self._transform, limit)
        except ImageError as error:
            return error.reason

    def _classified(self, file: str, scores: Scores, names: tuple[str, ...], top_k: int) -> ImageAnswer:
        """What is told about one photo."""
        own = scores.probabilities[0]
        labels = own.topk(min(top_k, len(names))).indices.tolist()
        beside = None if scores.zero_shot is None else scores.zero_shot[0]
        top = [
            ClassProbability(
                label=names[label],
                probability=float(own[label]),
                zero_shot=None if beside is None else float(beside[label]),
            )
            for label in labels
        ]
        return ImageAnswer(
            file=file,
            label=top[0].label,
            probability=top[0].probability,
            top=top,
            zero_shot=None
            if beside is None
            else ZeroShotAnswer(label=names[int(beside.argmax())], probability=float(beside.max())),
            shift=self._shift(scores),
        )

    def _shift(self, scores: Scores) -> Shift | None:
        if scores.shifts is None or self._context_norm is None:
            return None
        length = float(scores.shifts[0])
        return Shift(length=length, relative=length / self._context_norm)


@contextmanager
def _forgetting_images() -> Iterator[None]:
    """Let what fails keep no photo: a task holds its error, whose frames hold the photos and the task."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


def _as_text(sent: str) -> str:
    """Without halves of characters, which forms of odd encodings can bring and JSON cannot."""
    return sent.encode("utf-8", "replace").decode()


def _unreadable(file: str, reason: str) -> ImageAnswer:
    problem = Problem(code="unreadable_image", message=f"The photo cannot be used: {reason}.")
    return ImageAnswer(file=file, error=problem)
