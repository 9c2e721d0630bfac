"""The service behind the routes: checks, decoding, the queue, and results."""

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
from cocoop.data.images import ImageError, open_image
from cocoop.errors import PromptError
from cocoop.inference.predictor import top_classes
from cocoop.methods import Method
from cocoop.serving.batching import Batcher
from cocoop.serving.error_responses import ApiError
from cocoop.serving.limits import ServeConfig
from cocoop.serving.schemas import (
    ClassProbability,
    Health,
    ImageResult,
    Limits,
    PredictResponse,
    Problem,
    Shift,
    ZeroShotResult,
)
from cocoop.serving.scoring import Engine, ScoreRequest, Scores
from cocoop.version import __version__

__all__ = ["Service"]


class Service:
    """The service behind the routes. Call its methods on the thread of the event loop.

    Args:
        method: the classifier; afterwards only the service uses it.
        config: the limits.
    """

    def __init__(self, method: Method, config: ServeConfig) -> None:
        self._method = method
        self._config = config
        engine = Engine(method)
        self._context_norm = engine.context_norm
        self._batcher = Batcher(engine, window=config.batch_window_ms / 1000, max_batch=config.max_batch)
        self._transform = test_transform(method.backbone.preprocessing)
        # Few threads, because decoded images are large.
        self._decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "cocoop-decoder")
        self._waiting = 0

    def start(self) -> None:
        """Start the worker."""
        self._batcher.start()

    def stop(self) -> None:
        """Finish the batches in progress and drop images that are not decoded yet."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._batcher.stop()

    def health(self) -> Health:
        """Return the response to `GET /v1/health`."""
        return Health(
            status="ok",
            version=__version__,
            method=self._method.key,
            backbone=self._method.backbone.name,
            classes=list(self._method.classnames),
            queue=self._waiting,
            limits=Limits.model_validate(self._config, from_attributes=True),
        )

    def classnames(self, fields: Sequence[str] | None) -> tuple[str, ...]:
        """Return the class names of a request: the lines of its `classes` fields, or those of the method.

        Raises:
            ApiError: for too many names, a single one, or one that is too long or invalid Unicode.
        """
        names = tuple(name.strip() for lines in fields or () for name in lines.splitlines() if name.strip())
        limit, max_length = self._config.max_classes, self._config.max_name_length
        if len(names) > limit:
            message = f"The request names {len(names)} classes; this server accepts up to {limit}."
            raise ApiError(422, "too_many_classes", message)
        for name in names:
            if len(name) > max_length:
                message = f"The class name '{name[:50]}…' has {len(name)} characters; the limit is {max_length}."
                raise ApiError(422, "class_name_too_long", message)
            if name != _valid_unicode(name):
                message = f"The class name '{_valid_unicode(name)}' is not valid Unicode (shown with ? where invalid)."
                raise ApiError(422, "class_name_not_text", message)
        if len(names) == 1:
            message = f"The request names one class, '{names[0]}'; send two or more, each in its own field or line."
            raise ApiError(422, "too_few_classes", message)
        return names or self._method.classnames

    async def predict(self, images: Sequence[UploadFile], request: ScoreRequest, top_k: int) -> PredictResponse:
        """Return the response to `POST /v1/predict`.

        Raises:
            ApiError: for no images or too many, a full queue, unusable class names, or a timeout.
        """
        config = self._config
        if not images:
            raise ApiError(422, "invalid_request", "images: Field required.")
        if len(images) > config.max_images:
            message = f"The request has {len(images)} images; this server accepts up to {config.max_images} at once."
            raise ApiError(422, "too_many_images", message)
        if self._waiting + len(images) > config.max_waiting:
            message = f"{self._waiting} images are waiting already; try again in a moment."
            raise ApiError(429, "queue_full", message, {"Retry-After": "1"})
        self._waiting += len(images)
        try:
            with _clear_frames():
                results = await asyncio.wait_for(self._classify(images, request, top_k), config.timeout)
        except asyncio.TimeoutError:
            message = f"The answer took longer than {config.timeout:g} seconds; send fewer images or classes."
            raise ApiError(504, "timeout", message) from None
        except PromptError as error:
            raise ApiError(422, "unusable_classes", str(error)) from error
        finally:
            self._waiting -= len(images)
        return PredictResponse(method=self._method.key, images=results)

    async def _classify(self, images: Sequence[UploadFile], request: ScoreRequest, top_k: int) -> list[ImageResult]:
        files = [_valid_unicode(image.filename or f"image {number}") for number, image in enumerate(images, 1)]
        decoded = await asyncio.gather(*map(self._decode, images, files))
        tensors = [tensor for tensor in decoded if isinstance(tensor, Tensor)]
        scores: list[Scores] = []
        if tensors:
            scores = await asyncio.wrap_future(self._batcher.submit(torch.stack(tensors), request))
        remaining = iter(scores)
        return [
            ImageResult(file=file, error=Problem(code="unreadable_image", message=f"Cannot read the image: {image}."))
            if isinstance(image, str)
            else self._result(file, next(remaining), request.classnames, top_k)
            for file, image in zip(files, decoded, strict=True)
        ]

    async def _decode(self, upload: UploadFile, name: str) -> Tensor | str:
        """Return an upload as a tensor, or the reason why it is unreadable."""

        def decode() -> Tensor:
            content = upload.file.read()
            return self._transform(open_image(content, name=name, max_pixels=self._config.max_pixels))

        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, decode)
        except ImageError as error:
            return error.reason

    def _result(self, file: str, scores: Scores, classnames: Sequence[str], top_k: int) -> ImageResult:
        probabilities, labels = (tensor[0].tolist() for tensor in top_classes(scores.logits, top_k))
        zero_shot = shift = None
        zero_shot_probabilities: dict[int, float] = {}
        if scores.zero_shot is not None:
            ranked = top_classes(scores.zero_shot, len(classnames))
            values, order = (tensor[0].tolist() for tensor in ranked)
            zero_shot = ZeroShotResult(label=classnames[order[0]], probability=values[0])
            zero_shot_probabilities = dict(zip(order, values, strict=True))
        if scores.shifts is not None and self._context_norm is not None:
            length = float(scores.shifts[0])
            shift = Shift(length=length, relative=length / self._context_norm)
        top = [
            ClassProbability(
                label=classnames[label], probability=probability, zero_shot=zero_shot_probabilities.get(label)
            )
            for label, probability in zip(labels, probabilities, strict=True)
        ]
        return ImageResult(
            file=file, label=top[0].label, probability=top[0].probability, top=top, zero_shot=zero_shot, shift=shift
        )


@contextmanager
def _clear_frames() -> Iterator[None]:
    """Clear the frames of errors: a failed task keeps its error, and the frames would keep the images in memory."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


def _valid_unicode(text: str) -> str:
    """Replace lone surrogates: a form in an unusual encoding can contain them, but JSON cannot."""
    return text.encode("utf-8", "replace").decode()
