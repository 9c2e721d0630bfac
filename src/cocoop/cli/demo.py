"""`cocoop demo`: train and compare all methods on bundled images, offline."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cocoop.cli.console import note, out
from cocoop.cli.options import optional_flag

__all__ = ["DemoCommand"]


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Train prompts on a few bundled drawings, and compare zero-shot CLIP, CoOp and CoCoOp.

    Results are written to report.html. It needs no network and no images of your own, and takes a few minutes."""

    output: Path = Path("demo")
    """Directory for the results; files of an earlier demo there are overwritten, no others."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds to average over, each with other training images."""
    shots: int = 16
    """Training images per class in a run, at most 24."""
    test_images: int = 20
    """Test images per class, at most 20."""
    epochs: Annotated[int | None, optional_flag("INT", "as published, 200 for CoOp and 10 for CoCoOp")] = None
    """Passes over the training images."""

    def run(self) -> None:
        """Run the demo, print the table and write the page."""
        started = time.perf_counter()
        # PyTorch takes seconds to import, and the directory can be checked without it.
        from cocoop.experiments.demo_run import DEMO_IMAGES, check_demo_directory, run_demo

        check_demo_directory(self.output)

        from cocoop.cli.bench import sweep_callbacks
        from cocoop.experiments.records import read_sweep
        from cocoop.report.demo_page import write_demo_page
        from cocoop.report.sweep_report import write_report

        note("Comparing zero-shot CLIP, CoOp and CoCoOp on bundled drawings with the backbone lite ...")
        try:
            run_demo(
                self.output,
                seeds=self.seeds,
                shots=self.shots,
                test_images=self.test_images,
                epochs=self.epochs,
                callbacks=sweep_callbacks(2 * len(self.seeds) + 1),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Interrupted. Finished runs are kept; the same command continues.") from None
        page = write_demo_page(self.output, self.output / DEMO_IMAGES)
        out.print(write_report(self.output, published="never").terminal)
        note(
            f"This took {time.perf_counter() - started:.0f} seconds. The page is {page}; the records are in "
            f"{self.output / 'runs'}, and the tables in {self.output / 'report'}."
        )
        record = read_sweep(self.output).records[0]
        run = min((self.output / "runs").glob("*cocoop-*"))
        classes = list(record["tests"]["new"]["per_class"])
        image = min((self.output / DEMO_IMAGES / "test" / classes[0].replace(" ", "_")).iterdir())
        note(
            "Use a trained prompt with classes that it has never seen:\n"
            f"  cocoop predict {shlex.quote(str(run))} {shlex.quote(str(image))} "
            f"--classes {shlex.quote(', '.join(classes))}"
        )
