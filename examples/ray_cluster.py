"""Label images on a Ray cluster, into Parquet files with one row per image.

    pip install 'cocoop[ray]'
    python examples/ray_cluster.py runs/RUN s3://bucket/photos s3://bucket/labels --ray-workers 64

The cluster is the one that RAY_ADDRESS names, such as `ray://head:10001` or `auto`; without it, Ray starts on this
machine. All workers must reach the run directory, the images and the output, and have cocoop installed. Each uses its
own GPU if the cluster has any. If it is interrupted, the same command resumes, and no image is labelled twice.
"""

from __future__ import annotations

import argparse

import pyarrow.dataset as ds

import cocoop


def main() -> None:
    """Label, then count the labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run directory of `cocoop train`, or USER/NAME on the Hugging Face hub")
    parser.add_argument("images", nargs="+", help="images, directories and shards, here or at s3://, gs://, ...")
    parser.add_argument("output", help="directory of the Parquet files, here or at s3://, gs://, ...")
    parser.add_argument("--classes", help="class names separated by commas; default: those of the training")
    parser.add_argument("--ray-workers", type=int, default=2, help="number of processes, each with a model")
    arguments = parser.parse_args()

    classes = tuple(name.strip() for name in arguments.classes.split(",")) if arguments.classes else None
    summary = cocoop.label_images(
        cocoop.ModelSpec(source=arguments.run, classes=classes, device="auto"),
        arguments.images,
        arguments.output,
        engine="ray",
        ray_workers=arguments.ray_workers,
        on_progress=lambda done, total: print(f"chunk {done} of {total}", flush=True),
    )
    print(f"labelled {summary.images} images in {summary.seconds:.0f} s, {summary.unreadable} of them unreadable")

    table = ds.dataset(arguments.output, format="parquet").to_table(columns=["label"])
    for count in sorted(table["label"].value_counts().to_pylist(), key=lambda entry: -entry["counts"])[:10]:
        print(f"{count['counts']:8} {count['values']}")


if __name__ == "__main__":
    main()
