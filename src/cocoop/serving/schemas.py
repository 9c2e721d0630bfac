"""Schemas of the JSON responses, which validate them and describe them on the OpenAPI page."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ClassProbability",
    "ErrorResponse",
    "Health",
    "ImageResult",
    "Limits",
    "PredictResponse",
    "Problem",
    "Shift",
    "ZeroShotResult",
]


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class Problem(_Schema):
    """An error."""

    code: str = Field(description="Stable identifier for programs.")
    message: str = Field(description="Explanation for people: what happened and what to do.")


class ErrorResponse(_Schema):
    """The response to a request that was refused or failed."""

    error: Problem


class ClassProbability(_Schema):
    """One of the most probable classes."""

    label: str
    probability: float = Field(description="In [0, 1], among all classes of the request.")
    zero_shot: float | None = Field(default=None, description="Probability of zero-shot CLIP, with `compare` only.")


class ZeroShotResult(_Schema):
    """The most probable class of zero-shot CLIP."""

    label: str
    probability: float


class Shift(_Schema):
    """Size of Meta-Net's shift of the prompt for this image (CoCoOp)."""

    length: float = Field(description="Euclidean length.")
    relative: float = Field(description="Length divided by the mean length of the context vectors.")


class ImageResult(_Schema):
    """Classes of one image, or the reason why there are none."""

    file: str = Field(description="File name of the upload.")
    label: str | None = Field(default=None, description="Most probable class.")
    probability: float | None = Field(default=None, description="Probability of `label`.")
    top: list[ClassProbability] = Field(default=[], description="The `top_k` most probable classes, best first.")
    zero_shot: ZeroShotResult | None = Field(default=None, description="With `compare` only.")
    shift: Shift | None = Field(default=None, description="With `compare` and CoCoOp only.")
    error: Problem | None = Field(default=None, description="Reason why this image could not be classified.")


class PredictResponse(_Schema):
    """The response to `POST /v1/predict`."""

    method: str
    images: list[ImageResult] = Field(description="Results in the order of the uploads.")


class Limits(_Schema):
    """Limits of a request."""

    max_upload: int = Field(description="Bytes.")
    max_images: int
    max_pixels: int = Field(description="Pixels of one image.")
    max_classes: int
    max_name_length: int = Field(description="Characters of a class name, which must also fit the model's tokens.")


class Health(_Schema):
    """Model and load of the server."""

    status: str
    version: str
    method: str
    backbone: str
    classes: list[str] = Field(description="Classes for requests that do not name any.")
    queue: int = Field(description="Images accepted and not yet answered.")
    limits: Limits
