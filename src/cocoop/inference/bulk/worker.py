"""Label chunks with one model, one after the other.

Threads read and decode one batch ahead of the model, so at most two batches of images are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

from torch import Tensor

from cocoop.data import ImageError, open_image, test_transform
from cocoop.errors import DataError
from cocoop.inference.bulk.chunks import UNREACHABLE, Chunk, RawImage, read_image_file, read_shard_images
from cocoop.inference.bulk.job_directory import JobDirectory
from cocoop.inference.predictor import Predictor, classify

__all__ = ["RESUME_HINT", "ChunkLabeller", "ChunkResult"]

RESUME_HINT = "Labels written so far are kept; start the job again to resume."
"""Last sentence of the messages of a job that stops early."""


class ChunkResult(NamedTuple):
    """Numbers of images in a labelled chunk."""

    images: int
    unreadable: int


class ChunkLabeller:
    """Label chunks and write their output files.

    Args:
        predictor: the classifier.
        job: the directory to write to.
        top_k: labels per image.
        batch_size: images per batch.
        threads: threads that read and decode.
        shortlist: as in `ModelSpec`.
    """

    def __init__(
        self,
        predictor: Predictor,
        job: JobDirectory,
        *,
        top_k: int = 1,
        batch_size: int = 64,
        threads: int = 1,
        shortlist: int | None = None,
    ) -> None:
        self._job, self._batch_size = job, batch_size
        self._classnames = predictor.classnames
        self._scorer = predictor.image_scorer(shortlist)
        self._k = min(top_k, shortlist or top_k)
        self._transform = test_transform(predictor.preprocessing)
        self._pool = ThreadPoolExecutor(threads)

    def __call__(self, chunk: Chunk) -> ChunkResult:
        """Label a chunk and write its output file.

        Raises:
            CheckpointError: if the file cannot be written.
            DataError: if storage fails for the entire chunk: its shard, or all of its files.
        """
        predictions = [
            prediction
            for batch in self._batches(chunk)
            for prediction in classify(self._scorer, batch, self._classnames, self._k)
        ]
        # An outage or expired credentials must not mark millions of images as unreadable.
        if predictions and all((p.error or "").startswith(UNREACHABLE) for p in predictions):
            raise DataError(
                f"Could not read any of {chunk} ({predictions[-1].error}). Check the storage and your access to it. "
                f"{RESUME_HINT}"
            )
        self._job.write(chunk.output_file, predictions)
        return ChunkResult(len(predictions), sum(p.error is not None for p in predictions))

    def _batches(self, chunk: Chunk) -> Iterator[list[tuple[str, Tensor | str]]]:
        """Yield batches of paths with tensors or reasons, while the threads read the next batch."""
        waiting: Iterator[Any] = iter(chunk.files) if chunk.shard is None else read_shard_images(chunk.shard)
        read: Callable[[Any], tuple[str, Tensor | str]] = self._read_file if chunk.shard is None else self._decode
        current: list[Future[tuple[str, Tensor | str]]] = []
        while True:
            following = [self._pool.submit(read, image) for image in islice(waiting, self._batch_size)]
            if current:
                yield [image.result() for image in current]
            if not following:
                return
            current = following

    def _read_file(self, address: str) -> tuple[str, Tensor | str]:
        return self._decode(read_image_file(address))

    def _decode(self, image: RawImage) -> tuple[str, Tensor | str]:
        if image.content is None:
            return image.path, image.error or ""
        try:
            return image.path, self._transform(open_image(image.content))
        except ImageError as error:
            return image.path, error.reason
