"""Measure the parts of a training epoch one by one: decoding and augmentation, image tower, prompt steps.

Usage: python benchmarks/data_path.py DATA [--backbone lite] [--shots 16] [--workers 0 1 2]
"""

from __future__ import annotations

import argparse
import time

import torch

from cocoop import CoCoOp, load_backbone, load_data
from cocoop.data import epoch_order, image_batches, train_transform


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--image-root")
    parser.add_argument("--backbone", default="lite")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.backbone)
    data = load_data(arguments.data, image_root=arguments.image_root).few_shot(arguments.shots, seed=1)
    order = epoch_order(len(data.train), 64, seed=1, epoch=1)
    transform = train_transform(backbone.preprocessing)
    paths = [data.path_of(item) for item in data.train]
    batches = []
    for workers in arguments.workers:
        start = time.perf_counter()
        batches = list(image_batches(paths, order, transform=transform, seed=1, epoch=1, workers=workers))
        show(f"decode and augment, {workers} workers", time.perf_counter() - start, len(data.train))
    start = time.perf_counter()
    features = torch.cat([backbone.encode_image(batch.images) for batch in batches])
    show("image tower, 64 at once", time.perf_counter() - start, len(features))
    labels = torch.tensor([data.train[i].label for batch in batches for i in batch.indices.tolist()])
    method = CoCoOp(backbone, data.classnames, seed=1)
    start = time.perf_counter()
    for row in range(len(features)):
        for loss, _ in method.losses(features[row : row + 1], labels[row : row + 1]):
            loss.backward()
    show(f"prompt steps, batch 1, {len(data.classnames)} classes", time.perf_counter() - start, len(features))


def show(what: str, seconds: float, images: int) -> None:
    """One line."""
    print(f"{what:<45} {seconds:>7.2f} s {seconds / images * 1000:>8.2f} ms a photo")


if __name__ == "__main__":
    main()
