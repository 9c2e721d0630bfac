"""Error responses, all as JSON of the form `{"error": {"code", "message"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cocoop.serving.schemas import ErrorResponse, Problem

__all__ = ["ERROR_DESCRIPTIONS", "ApiError", "add_error_handlers", "error_response"]

ERROR_DESCRIPTIONS = {
    400: "The form cannot be parsed.",
    401: "The token is missing or wrong.",
    408: "The upload stalled or took too long.",
    413: "The request is too large.",
    422: "The request has too many images or classes, or unusable class names.",
    429: "Too many requests are waiting; try again later.",
    500: "Internal error.",
    503: "There are too many requests at the same time, or the server is stopping; try again later.",
    504: "The answer took too long.",
}
"""Descriptions of the status codes for the OpenAPI page."""


class ApiError(HTTPException):
    """A refused request.

    Args:
        status: HTTP status.
        code: identifier for programs.
        message: explanation for people: what happened and what to do.
        headers: additional headers of the response.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.code = code


def error_response(error: HTTPException) -> JSONResponse:
    """Return the response for an error of this package or of the framework."""
    code = error.code if isinstance(error, ApiError) else HTTPStatus(error.status_code).name.lower()
    content = ErrorResponse(error=Problem(code=code, message=str(error.detail)))
    return JSONResponse(content.model_dump(), error.status_code, error.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Use `error_response` for all refused requests; `RequestLogMiddleware` answers unexpected exceptions."""

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # The first part of a location is `body`. The input may be long and is not repeated.
        problems = "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or 'request'}: {e['msg']}" for e in error.errors())
        return error_response(ApiError(422, "invalid_request", f"{problems}."))
