"""The API: photos in, probabilities out, as typed JSON; and the page, if wanted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated

import torch
from fastapi import Depends, FastAPI, File, Form, UploadFile
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from torch import Tensor

from cocoop.data import test_transform
from cocoop.data.images import PhotoError
from cocoop.errors import PromptError
from cocoop.methods import Method
from cocoop.serving.batching import Batcher
from cocoop.serving.config import ServeConfig
from cocoop.serving.guard import Guard
from cocoop.serving.page import add_page
from cocoop.serving.photos import read_upload
from cocoop.serving.refusals import ERROR_ANSWERS, Refusal, explain_refusals
from cocoop.serving.schemas import (
    Answer,
    ClassProbability,
    ErrorAnswer,
    Health,
    Limits,
    PhotoAnswer,
    Problem,
    Shift,
    ZeroShotAnswer,
)
from cocoop.serving.scoring import Classes, Engine, Scores
from cocoop.version import __version__

__all__ = ["create_app"]

DESCRIPTION = """Classify photos with a learned prompt, among the classes it was trained on or any others.

Errors are `{"error": {"code", "message"}}`. A photo that cannot be read is an error of that photo alone."""


def create_app(method: Method, config: ServeConfig) -> FastAPI:
    """The application, for any ASGI server.

    Args:
        method: what classifies; from now on only the application uses it.
        config: the limits.
    """
    service = _Service(method, config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        service.stop()

    app = FastAPIOffline(
        title="cocoop",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        # The door has checked the token; this tells the OpenAPI page that there is one.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if config.token else [],
        responses={code: {"model": ErrorAnswer, "description": text} for code, text in ERROR_ANSWERS.items()},
    )
    app.add_middleware(Guard, config=config)
    explain_refusals(app)

    @app.get("/v1/health", summary="What is served, and how busy the server is")
    async def health() -> Health:
        return service.health()

    @app.post("/v1/predict", summary="Classify photos")
    async def predict(
        photos: Annotated[list[UploadFile], File(description="One or more photos.")],
        classes: Annotated[
            list[str] | None,
            Form(
                description="Class names, trained on or not: one in each `classes`, or several on lines of their own. "
                "None: those the prompt was trained on."
            ),
        ] = None,
        top_k: Annotated[int, Form(ge=1, description="How many classes to name for each photo.")] = 5,
        compare: Annotated[bool, Form(description="Tell zero-shot CLIP's answer and the prompt's shift too.")] = False,
    ) -> Answer:
        return await service.predict(photos, Classes(service.names(classes), compare), top_k)

    if config.page:
        add_page(app)
    return app


class _Service:
    """What is behind the routes: all of it but the batcher runs in the event loop's thread."""

    def __init__(self, method: Method, config: ServeConfig) -> None:
        self._method = method
        self._config = config
        engine = Engine(method)
        self._context_norm = engine.context_norm
        self.batcher = Batcher(engine, window=config.batch_window_ms / 1000, max_batch=config.max_batch)
        self._transform = test_transform(method.backbone.preprocessing)
        # Decoded photos are large: only a few at a time.
        self._decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "cocoop-decoder")
        self._waiting = 0

    def stop(self) -> None:
        """Finish what is begun."""
        self._decoders.shutdown()
        self.batcher.stop()

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
            Refusal: for too many, or one that is too long.
        """
        names = tuple(name.strip() for lines in fields or () for name in lines.splitlines() if name.strip())
        limit, longest = self._config.max_classes, self._config.max_name_length
        if len(names) > limit:
            message = f"The request names {len(names)} classes; this server takes up to {limit}."
            raise Refusal(422, "too_many_classes", message)
        for name in names:
            if len(name) > longest:
                message = f"The class name '{name[:50]}…' has {len(name)} characters; the limit is {longest}."
                raise Refusal(422, "class_name_too_long", message)
        return names or self._method.classnames

    async def predict(self, photos: Sequence[UploadFile], classes: Classes, top_k: int) -> Answer:
        """What `POST /v1/predict` answers.

        Raises:
            Refusal: for too many photos, a full queue, names that cannot be made into prompts, or lack of time.
        """
        config = self._config
        if len(photos) > config.max_photos:
            message = f"The request has {len(photos)} photos; this server takes up to {config.max_photos} at once."
            raise Refusal(422, "too_many_photos", message)
        if self._waiting + len(photos) > config.max_waiting:
            message = f"{self._waiting} photos are waiting already; try again in a moment."
            raise Refusal(429, "queue_full", message, {"Retry-After": "1"})
        self._waiting += len(photos)
        try:
            answers = await asyncio.wait_for(self._answers(photos, classes, top_k), config.timeout)
        except asyncio.TimeoutError:
            message = f"The answer took longer than {config.timeout:g} seconds; send fewer photos or classes at once."
            raise Refusal(504, "timeout", message) from None
        except PromptError as error:
            raise Refusal(422, "unusable_classes", str(error)) from error
        finally:
            self._waiting -= len(photos)
        return Answer(method=self._method.key, photos=answers)

    async def _answers(self, photos: Sequence[UploadFile], classes: Classes, top_k: int) -> list[PhotoAnswer]:
        names = [photo.filename or f"photo {number}" for number, photo in enumerate(photos, 1)]
        read = await asyncio.gather(*map(self._read, photos, names))
        images = [image for image in read if isinstance(image, Tensor)]
        found: list[PhotoAnswer] = []
        if images:
            scores = await asyncio.wrap_future(self.batcher.submit(torch.stack(images), classes))
            found = self._told(scores, classes.names, top_k)
        rows = iter(found)
        return [
            PhotoAnswer(
                file=name, error=Problem(code="unreadable_photo", message=f"The photo cannot be used: {image}.")
            )
            if isinstance(image, str)
            else next(rows).model_copy(update={"file": name})
            for name, image in zip(names, read, strict=True)
        ]

    async def _read(self, photo: UploadFile, name: str) -> Tensor | str:
        """A photo as a tensor, or what is wrong with it."""
        loop, limit = asyncio.get_running_loop(), self._config.max_pixels
        try:
            return await loop.run_in_executor(self._decoders, read_upload, photo.file, name, self._transform, limit)
        except PhotoError as error:
            return error.reason

    def _told(self, scores: Scores, names: tuple[str, ...], top_k: int) -> list[PhotoAnswer]:
        """One answer a photo, without its file name."""
        best = scores.probabilities.topk(min(top_k, len(names)))
        answers = []
        for row, (probabilities, labels) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            zero_shot = None if scores.zero_shot is None else scores.zero_shot[row]
            answers.append(
                PhotoAnswer(
                    file="",
                    label=names[labels[0]],
                    probability=probabilities[0],
                    top=[
                        ClassProbability(
                            label=names[label],
                            probability=probability,
                            zero_shot=None if zero_shot is None else float(zero_shot[label]),
                        )
                        for probability, label in zip(probabilities, labels, strict=True)
                    ],
                    zero_shot=None
                    if zero_shot is None
                    else ZeroShotAnswer(label=names[int(zero_shot.argmax())], probability=float(zero_shot.max())),
                    shift=self._shift(scores, row),
                )
            )
        return answers

    def _shift(self, scores: Scores, row: int) -> Shift | None:
        if scores.shifts is None or self._context_norm is None:
            return None
        length = float(scores.shifts[row])
        return Shift(length=length, relative=length / self._context_norm)
