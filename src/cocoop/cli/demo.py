"""`cocoop demo`: everything at once, offline, on pictures that it draws."""

from __future__ import annotations

import datetime
import platform
import shlex
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cocoop.cli.console import counting, fail, note, out
from cocoop.data import Dataset
from cocoop.demo.crew import Crew, usable_cores
from cocoop.demo.home import Home
from cocoop.demo.page import demo_page
from cocoop.demo.study import BACKBONE, Study, draw_world, encode_tests, run_name, world_data
from cocoop.files import write_json, write_whole
from cocoop.report.tables import METHOD_NAMES, base_to_new_table

__all__ = ["DemoCommand"]

LIBRARIES = ("cocoop", "torch", "torchvision", "open_clip_torch", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Draw labelled pictures, learn prompts from a few of them, and measure zero-shot CLIP, CoOp and CoCoOp.

    A page, report.html, explains it all. No network and no photos are needed; it takes a few minutes on two cores."""

    output: Path = Path("demo")
    """Folder for the page, the numbers, the pictures and the trained prompts. What an earlier demonstration wrote
    there is overwritten, nothing else."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Runs to average over, each with other training pictures."""
    shots: int = 16
    """Training pictures of each class in a run."""
    test_pictures: int = 20
    """Test pictures of each class."""
    epochs: int | None = None
    """Passes over the training pictures; as published (200 for CoOp, 10 for CoCoOp) if not given."""
    processes: int | None = None
    """Processes at work, one thread each; one for each core if not given."""

    def run(self) -> None:
        """Do it all."""
        started = time.perf_counter()
        study = Study(seeds=self.seeds, shots=self.shots, test_pictures=self.test_pictures, epochs=self.epochs)
        processes = self.processes if self.processes is not None else min(usable_cores(), study.most_processes)
        crew, home = Crew(processes), Home(self.output)
        home.claim()
        try:
            with crew:
                data, records = self._measure(crew, study, home)
        except KeyboardInterrupt:
            fail("Stopped. Run the demonstration again to begin anew.", 130)
        results = {
            **_about(study, data, processes),
            "seconds": round(time.perf_counter() - started, 1),
            "records": records,
        }
        write_json(home.results, results)
        write_whole(home.report, demo_page(results, home.pictures, home.folder).encode())
        out.print(base_to_new_table(records, f"Base to new classes: {data.name}, {BACKBONE}, {self.shots} shots"))
        self._point_at(home, results)

    def _measure(self, crew: Crew, study: Study, home: Home) -> tuple[Dataset, list[dict[str, Any]]]:
        pictures = study.pictures
        note(f"Drawing {len(pictures)} pictures ...")
        with counting("drawing", "pictures") as progress:
            draw_world(crew, home.pictures, pictures, progress)
        data = world_data(home.pictures, pictures)
        note(f"Encoding {len(data.test)} test pictures with the backbone {BACKBONE} ...")
        with counting("encoding", "pictures") as progress:
            tests = encode_tests(crew, data, progress)
        note(f"Learning from {self.shots} pictures of each of {len(data.base().classnames)} base classes ...")
        with counting("learning", "steps") as progress:
            records = study.run(crew, home.runs, data, tests, on_progress=progress, on_result=_tell)
        return data, records

    def _point_at(self, home: Home, results: dict[str, Any]) -> None:
        run = shlex.quote(str(home.folder / results["run"]))
        picture = shlex.quote(str(home.pictures / next(iter(results["truth"]))))
        note(f"It took {results['seconds']:.0f} seconds. The page: {home.report}; the numbers: {home.results}")
        note(f"Use the CoCoOp prompt that was learned:  cocoop predict {run} {picture}")
        names = shlex.quote(", ".join(results["classes"]["new"]))
        note(f"and with classes it never saw:           cocoop predict {run} PHOTOS --classes {names}")


def _tell(record: dict[str, Any]) -> None:
    base, new = (record[half]["accuracy"] for half in ("base", "new"))
    note(f"  {METHOD_NAMES[record['method']]}, seed {record['seed']}: base {base:.1f}%, new {new:.1f}%")


def _about(study: Study, data: Dataset, processes: int) -> dict[str, Any]:
    """All that the results hold beside what was measured."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "backbone": BACKBONE,
        "seeds": list(study.seeds),
        "shots": study.shots,
        "test_pictures": study.test_pictures,
        "classes": {"base": list(data.base().classnames), "new": list(data.new().classnames)},
        "pictures": {"train": len(data.train), "test": len(data.test)},
        "fingerprint": data.fingerprint,
        "processes": processes,
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "run": f"runs/{run_name('cocoop', study.seeds[0])}",
        "truth": {item.path: data.classnames[item.label] for item in data.test},
    }
