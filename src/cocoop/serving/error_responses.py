"""Requests that are not served: one shape of JSON for all of them, `{"error": {"code", "message"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cocoop.serving.schemas import ErrorAnswer, Problem

__all__ = ["ERROR_ANSWERS", "ApiError", "add_error_handlers", "error_response"]

ERROR_ANSWERS = {
    400: "The form cannot be read.",
    401: "No token, or a wrong one.",
    408: "The upload stalled, or took too long.",
    413: "The request is too large.",
    422: "Too many photos or classes, or names that cannot be made into prompts.",
    429: "Too much is waiting; try again later.",
    500: "A mistake of the server.",
    503: "Too many connections, or the server stops; try again later.",
    504: "The time limit was reached.",
}
"""Status codes of refusals, for the OpenAPI page."""


class ApiError(HTTPException):
    """A request that is not served.

    Args:
        status: of HTTP.
        code: for programs.
        message: for people: what was seen, and what to do.
        headers: to send with it.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.code = code


def error_response(refusal: HTTPException) -> JSONResponse:
    """A refusal, ours or the framework's, as JSON."""
    code = refusal.code if isinstance(refusal, ApiError) else HTTPStatus(refusal.status_code).name.lower()
    content = ErrorAnswer(error=Problem(code=code, message=str(refusal.detail)))
    return JSONResponse(content.model_dump(), refusal.status_code, refusal.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Answer the refusals of an application in the one shape; its failures are answered by `Watch`."""

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # The first part of a place is `body`; what was sent may be long, and is not repeated.
        said = "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or 'request'}: {e['msg']}" for e in error.errors())
        return error_response(ApiError(422, "invalid_request", f"{said}."))
