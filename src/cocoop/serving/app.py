"""The ASGI application: a JSON API that classifies images, and a web page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, File, Form, UploadFile
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline

from cocoop.methods import Method
from cocoop.serving.error_responses import ERROR_DESCRIPTIONS, add_error_handlers
from cocoop.serving.limits import ServeConfig
from cocoop.serving.middleware import LimitsMiddleware
from cocoop.serving.request_log import RequestLogMiddleware
from cocoop.serving.schemas import ErrorResponse, Health, PredictResponse
from cocoop.serving.scoring import ScoreRequest
from cocoop.serving.service import Service
from cocoop.serving.web_page import add_page
from cocoop.version import __version__

__all__ = ["create_app"]

DESCRIPTION = """Classify images with a learned prompt, among the classes of its training or any others.

Errors are `{"error": {"code", "message"}}`. An image that cannot be read is an error of that image alone."""


def create_app(method: Method, config: ServeConfig | None = None) -> FastAPI:
    """Create the application, for any ASGI server.

    Args:
        method: the classifier; afterwards only the application uses it.
        config: the limits; None: the defaults.
    """
    config = config or ServeConfig()
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
        # A redirect would lead to the address in the Host header, which the client chooses.
        redirect_slashes=False,
        # LimitsMiddleware checks the token; this documents it on the OpenAPI page.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if config.token else [],
        responses={code: {"model": ErrorResponse, "description": text} for code, text in ERROR_DESCRIPTIONS.items()},
    )
    app.add_middleware(LimitsMiddleware, config=config)
    app.add_middleware(RequestLogMiddleware)
    add_error_handlers(app)

    @app.get("/v1/health", summary="Describe the model and the load of the server")
    async def health() -> Health:
        return service.health()

    @app.post("/v1/predict", summary="Classify images")
    async def predict(
        images: Annotated[list[UploadFile], File(default_factory=list, description="One or more images.")],
        photos: Annotated[
            list[UploadFile], File(default_factory=list, description="Old name of `images`.", deprecated=True)
        ],
        classes: Annotated[
            list[str] | None,
            Form(
                description="Class names, trained on or not: one per `classes` field, or several on separate lines. "
                "None: the classes of the training."
            ),
        ] = None,
        top_k: Annotated[int, Form(ge=1, description="Number of classes to return for each image.")] = 5,
        compare: Annotated[
            bool, Form(description="Return zero-shot CLIP's answer and the prompt's shift too.")
        ] = False,
    ) -> PredictResponse:
        request = ScoreRequest(service.classnames(classes), compare)
        return await service.predict([*images, *photos], request, top_k)

    # `images` is optional above only because clients may send its old name, `photos`.
    app.openapi()["components"]["schemas"]["Body_predict_v1_predict_post"]["required"] = ["images"]
    if config.page:
        add_page(app)
    return app
