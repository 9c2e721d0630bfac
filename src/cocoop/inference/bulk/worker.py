"""One worker: a model, and the labels of one piece after the other.

Reading and decoding run in threads, ahead of the model by one batch; no more than two batches of photos are in memory.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from cocoop.data import ImageError, open_image, test_transform
from cocoop.errors import DataError
from cocoop.inference.bulk.chunks import UNREACHABLE, Chunk, Read, read, read_file
from cocoop.inference.bulk.job_directory import Job
from cocoop.inference.predictor import Prediction, Predictor, top_k_classes

__all__ = ["GOES_ON", "Done", "Labeller"]

GOES_ON = "What is labelled stays; the same command goes on."
"""What a message ends with where a job stops."""


class Done(NamedTuple):
    """What became of a piece."""

    images: int
    unreadable: int


class Labeller:
    """Labels pieces and writes their parts.

    Args:
        predictor: what classifies.
        job: where the parts go.
        top_k: labels of a photo.
        batch_size: photos at once.
        threads: that read and decode.
        shortlist: as in `Model`.
    """

    def __init__(
        self,
        predictor: Predictor,
        job: Job,
        *,
        top_k: int = 1,
        batch_size: int = 64,
        threads: int = 2,
        shortlist: int | None = None,
    ) -> None:
        self._job, self._batch_size = job, batch_size
        self._classnames = predictor.classnames
        self._scorer = predictor.image_scorer(shortlist)
        self._k = min(top_k, shortlist or top_k, len(self._classnames))
        self._transform = test_transform(predictor.preprocessing)
        self._pool = ThreadPoolExecutor(max_workers=max(1, threads))

    def __call__(self, piece: Chunk) -> Done:
        """Label a piece and write its part.

        Raises:
            CheckpointError: if the disk refuses.
            DataError: if storage refuses a whole piece: its shard, or each of its files and not only some of them.
        """
        predictions = [p for images in self._batches(piece) for p in self._label(images)]
        # An outage or an expired password must not be noted as the fault of millions of photos.
        if predictions and all((p.error or "").startswith(UNREACHABLE) for p in predictions):
            raise DataError(
                f"None of {piece} can be had ({predictions[-1].error}). Is their storage there, and open to you? "
                f"{GOES_ON}"
            )
        self._job.write(piece.name, predictions)
        return Done(len(predictions), sum(p.error is not None for p in predictions))

    def _batches(self, piece: Chunk) -> Iterator[list[tuple[str, Tensor | str]]]:
        """Photos as tensors, or why not; the next batch is read meanwhile."""
        waiting: list[Future[tuple[str, Tensor | str]]] = []
        source = iter(piece.files) if piece.shard is None else read(piece.shard)
        while True:
            work: Callable[..., tuple[str, Tensor | str]] = self._file if piece.shard is None else self._decoded
            following = [self._pool.submit(work, image) for image in islice(source, self._batch_size)]
            if waiting:
                yield [image.result() for image in waiting]
            if not following:
                return
            waiting = following

    def _file(self, address: str) -> tuple[str, Tensor | str]:
        return self._decoded(read_file(address))

    def _decoded(self, image: Read) -> tuple[str, Tensor | str]:
        if image.content is None:
            return image.path, image.error or ""
        try:
            return image.path, self._transform(open_image(io.BytesIO(image.content)))
        except ImageError as error:
            return image.path, error.reason

    def _label(self, images: Sequence[tuple[str, Tensor | str]]) -> Iterator[Prediction]:
        tensors = [tensor for _, tensor in images if isinstance(tensor, Tensor)]
        best = iter(top_k_classes(self._scorer, torch.stack(tensors), self._k) if tensors else ())
        for path, tensor in images:
            if isinstance(tensor, str):
                yield Prediction(path, (), (), tensor)
            else:
                probabilities, labels = next(best)
                yield Prediction(path, tuple(self._classnames[label] for label in labels), probabilities)
