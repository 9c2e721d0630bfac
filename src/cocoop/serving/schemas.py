"""What the API says, as types: they check the answers and make the OpenAPI page."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Answer",
    "ClassProbability",
    "ErrorAnswer",
    "Health",
    "ImageAnswer",
    "Limits",
    "Problem",
    "Shift",
    "ZeroShotAnswer",
]


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class Problem(_Schema):
    """What went wrong."""

    code: str = Field(description="For programs; it never changes.")
    message: str = Field(description="For people: what was seen, and what to do.")


class ErrorAnswer(_Schema):
    """The answer to a request that could not be served."""

    error: Problem


class ClassProbability(_Schema):
    """One of the most probable classes."""

    label: str
    probability: float = Field(description="In [0, 1], among all classes asked for.")
    zero_shot: float | None = Field(default=None, description="The same by zero-shot CLIP, if `compare` was asked for.")


class ZeroShotAnswer(_Schema):
    """What zero-shot CLIP says."""

    label: str
    probability: float


class Shift(_Schema):
    """How far Meta-Net moves the prompt for this photo (CoCoOp)."""

    length: float = Field(description="Euclidean length of the shift.")
    relative: float = Field(description="The same as a share of the mean length of the context vectors.")


class ImageAnswer(_Schema):
    """One photo: its classes, or why there are none."""

    file: str = Field(description="The file name as it was sent.")
    label: str | None = Field(default=None, description="The most probable class.")
    probability: float | None = Field(default=None, description="Its probability.")
    top: list[ClassProbability] = Field(default=[], description="The `top_k` most probable classes, best first.")
    zero_shot: ZeroShotAnswer | None = Field(default=None, description="If `compare` was asked for.")
    shift: Shift | None = Field(default=None, description="If `compare` was asked for, and the method is CoCoOp.")
    error: Problem | None = Field(default=None, description="Why this photo could not be classified.")


class Answer(_Schema):
    """The answer to `POST /v1/predict`."""

    method: str
    images: list[ImageAnswer] = Field(description="In the order they were sent.")


class Limits(_Schema):
    """What a request may bring."""

    max_upload: int = Field(description="Bytes.")
    max_images: int
    max_pixels: int = Field(description="Of one photo.")
    max_classes: int
    max_name_length: int = Field(description="Characters of a class name; it must also fit the model's tokens.")


class Health(_Schema):
    """What is served, and how busy the server is."""

    status: str
    version: str
    method: str
    backbone: str
    classes: list[str] = Field(description="Those that are asked for where a request names none.")
    queue: int = Field(description="Photos accepted and not yet answered.")
    limits: Limits
