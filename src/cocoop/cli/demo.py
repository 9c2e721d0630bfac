"""`cocoop demo`: train and compare all methods on drawn images, offline."""

from __future__ import annotations

import datetime
import platform
import shlex
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cocoop.cli.console import image_progress, note, out
from cocoop.cli.options import left_out
from cocoop.demo.home import Home
from cocoop.version import __version__

if TYPE_CHECKING:
    from cocoop.data import Dataset
    from cocoop.demo.crew import Crew
    from cocoop.demo.study import Study

__all__ = ["DemoCommand"]

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Learn prompts from a few drawn images, and compare zero-shot CLIP, CoOp and CoCoOp.

    A page, report.html, explains it all. No network and no photos are needed; it takes a few minutes on two cores."""

    output: Path = Path("demo")
    """Folder for all that is made; an earlier demonstration's files there are overwritten, no others."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Runs to average over, each with other training pictures."""
    shots: int = 16
    """Training images per class in a run, at most 24."""
    test_pictures: int = 20
    """Test images per class, at most 20."""
    epochs: Annotated[int | None, left_out("INT", "as published, 200 for CoOp and 10 for CoCoOp")] = None
    """Passes over the training pictures."""
    processes: Annotated[int | None, left_out("INT", "one for each core")] = None
    """Processes at work, of one thread each."""

    def run(self) -> None:
        """Do it all.

        Raises:
            CocoopError: for options out of range, a folder that holds something else, or a disk that refuses.
            KeyboardInterrupt: after Ctrl-C.
        """
        started = time.perf_counter()
        home = Home(self.output)
        home.check()
        # PyTorch takes seconds to import, and whose folder this is can be said without it.
        from cocoop.demo.crew import Crew, usable_cores
        from cocoop.demo.page import demo_page
        from cocoop.demo.study import Study
        from cocoop.report.tables import base_to_new_table
        from cocoop.storage.atomic import write_atomic
        from cocoop.storage.json_files import write_json

        study = Study(seeds=self.seeds, shots=self.shots, test_pictures=self.test_pictures, epochs=self.epochs)
        processes = min(usable_cores(), study.most_processes) if self.processes is None else self.processes
        crew = Crew(processes)
        home.claim()
        try:
            with tempfile.TemporaryDirectory(prefix="cocoop-demo-") as cache, crew:
                data, records = self._measure(crew, study, home, Path(cache))
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Stopped. Run the demonstration again to begin anew.") from None
        seconds = round(time.perf_counter() - started, 1)
        results = {**_about(study, data), "processes": processes, "seconds": seconds, "records": records}
        write_json(home.results, results)
        write_atomic(home.report, demo_page(results, home.pictures, home.folder).encode())
        title = f"Base to new classes: {data.name}, backbone {results['backbone']}, {self.shots} shots"
        out.print(base_to_new_table(records, title))
        _point_at(home, results)

    def _measure(self, crew: Crew, study: Study, home: Home, cache: Path) -> tuple[Dataset, list[dict[str, Any]]]:
        from cocoop.data.demo_images import unpack_demo_images
        from cocoop.demo.study import BACKBONE, encode_pictures

        data = unpack_demo_images(home.pictures, train=study.training_pool, test=study.test_pictures)
        note(f"Encoding pictures with the backbone {BACKBONE} ...")
        with image_progress("encoding", "pictures") as progress:
            tests = encode_pictures(crew, data, cache, progress)
        note(f"Learning from {self.shots} pictures of each of {len(data.base().classnames)} base classes ...")
        with image_progress("learning", "steps") as progress:
            records = study.run(crew, home.runs, data, tests, cache, on_progress=progress, on_result=_tell)
        return data, records


def _tell(record: dict[str, Any]) -> None:
    from cocoop.report.tables import METHOD_NAMES

    base, new = (record[half]["accuracy"] for half in ("base", "new"))
    note(f"  {METHOD_NAMES[record['method']]}, seed {record['seed']}: base {base:.1f}%, new {new:.1f}%")


def _about(study: Study, data: Dataset) -> dict[str, Any]:
    """All that the results hold beside what was measured."""
    from cocoop.demo.study import BACKBONE, run_name

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "backbone": BACKBONE,
        "seeds": list(study.seeds),
        "shots": study.shots,
        "test_pictures": study.test_pictures,
        "classes": {"base": list(data.base().classnames), "new": list(data.new().classnames)},
        "pictures": {"train": len(data.train), "test": len(data.test)},
        "fingerprint": data.fingerprint,
        "versions": {
            "cocoop": __version__,
            "Python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "run": f"runs/{run_name('cocoop', study.seeds[0])}",
        "truth": {item.path: data.classnames[item.label] for item in data.test},
    }


def _point_at(home: Home, results: dict[str, Any]) -> None:
    run = shlex.quote(str(home.folder / results["run"]))
    picture = shlex.quote(str(home.pictures / next(iter(results["truth"]))))
    names = shlex.quote(", ".join(results["classes"]["new"]))
    note(
        f"It took {results['seconds']:.0f} seconds. The page is {home.report}, the numbers are in {home.results}.\n"
        f"Use the CoCoOp prompt that was learned:\n  cocoop predict {run} {picture}\n"
        f"The same prompt with classes it never saw:\n  cocoop predict {run} PHOTOS --classes {names}"
    )
