"""The API: photos in, probabilities out, as typed JSON; and the page, if wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, File, Form, UploadFile
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline

from cocoop.methods import Method
from cocoop.serving.error_responses import ERROR_ANSWERS, add_error_handlers
from cocoop.serving.limits import ServeConfig
from cocoop.serving.middleware import LimitsMiddleware
from cocoop.serving.request_log import Watch
from cocoop.serving.schemas import Answer, ErrorAnswer, Health
from cocoop.serving.scoring import Classes
from cocoop.serving.service import Service
from cocoop.serving.web_page import add_page
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
    service = Service(method, config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPIOffline(
        title="cocoop",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        # It would send clients to whatever address their Host header names.
        redirect_slashes=False,
        # The door has checked the token; this tells the OpenAPI page that there is one.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if config.token else [],
        responses={code: {"model": ErrorAnswer, "description": text} for code, text in ERROR_ANSWERS.items()},
    )
    app.add_middleware(LimitsMiddleware, config=config)
    app.add_middleware(Watch)
    add_error_handlers(app)

    @app.get("/v1/health", summary="What is served, and how busy the server is")
    async def health() -> Health:
        return service.health()

    @app.post("/v1/predict", summary="Classify photos")
    async def predict(
        images: Annotated[list[UploadFile], File(description="One or more photos.")],
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
        return await service.predict(images, Classes(service.names(classes), compare), top_k)

    if config.page:
        add_page(app)
    return app
