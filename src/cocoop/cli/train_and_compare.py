"""The work of `cocoop train`: what can be wrong first, then the test photos, the prompt, and the comparison."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from cocoop.backbones.backbone import Backbone
from cocoop.cli.console import accuracy_table, note, out, training
from cocoop.cli.encoding import encode_images
from cocoop.cli.options import pick_device
from cocoop.cli.train import TrainCommand
from cocoop.config import TrainConfig
from cocoop.data import Dataset
from cocoop.errors import CheckpointError
from cocoop.evaluation.evaluate import evaluate
from cocoop.experiments import Trial, run_trial
from cocoop.methods import METHODS, Method
from cocoop.report.tables import base_to_new_table
from cocoop.storage.json_files import write_json
from cocoop.training.distributed import Engine, Processes, launched_engine
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import Features, hash_training_images, overlap, unreadable_message
from cocoop.training.fit import TrainResult, check_fit, fit
from cocoop.training.run_directory import epochs_done
from cocoop.training.trackers import LOGS, Log, epoch_numbers, tracked

__all__ = ["train"]


def train(command: TrainCommand, data: Dataset) -> None:
    """Train, measure, compare, print.

    Args:
        command: the flags.
        data: the few-shot draw of all classes.

    Raises:
        CocoopError: for all that can be wrong with data, settings or folders, before anything is trained.
        KeyboardInterrupt: on Ctrl-C, saying what is kept.
    """
    chosen = data.select(command.classes)
    chosen.check_trainable()
    compare = command.compare != "none" and _can_compare(command, data)
    needed = data if compare else chosen
    needed.check_files(["train", "test"])
    settings = command.prompt.settings(command.seed)
    engine = launched_engine(pick_device(command.model.device))
    job = _Job(command, _directory(command, data), data, chosen, engine)
    config = command.config(command.prompt.method, cached=command.cache_features)
    try:
        backbone = command.model.load()
        method = METHODS[command.prompt.method](backbone, chosen.classnames, **settings)
        check_fit(method, chosen, config, run=job.directory, resume=command.resume, about=job.about)
        note(f"{data.name}: {len(chosen.train)} photos of {len(chosen.classnames)} classes; backbone {backbone.name}")
        cache = command.cache(backbone)
        tests = job.encode_tests(backbone, needed, cache) if needed.test else None
        begun_with = {"method": method.key, **job.facts(backbone), **dataclasses.asdict(config)}
        with tracked(command.track if job.processes.is_first else (), job.directory, begun_with) as log:
            mine = tests if tests is None or not compare else tests.select(command.classes)
            job.learn(method, config, mine, cache, log)
            if compare and tests is not None:
                job.compare(backbone, tests.select("base"), tests.select("new"), cache)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(job.what_is_kept()) from None
    # Last, for its model card tells all the numbers above.
    if job.processes.is_first:
        method.save_pretrained(job.directory)
    note(f"The run is in {job.directory}. Predict with: cocoop predict {shlex.quote(str(job.directory))} PHOTOS...")


def _can_compare(command: TrainCommand, data: Dataset) -> bool:
    if command.prompt.class_specific:
        note("No comparison from base to new classes: contexts of --class-specific exist only for classes trained on.")
    elif len(data.classnames) < 4:
        note(
            f"No comparison from base to new classes: it needs 4 classes or more, and there are {len(data.classnames)}."
        )
    elif not (data.base().test and data.new().test):
        note("No comparison from base to new classes: it needs test photos of both.")
    else:
        data.base().check_trainable()
        return True
    return False


def _directory(command: TrainCommand, data: Dataset) -> Path:
    """Where the run goes.

    Raises:
        CheckpointError: if something is there that would be lost, or that is no run.
    """
    name = f"{data.name}-{command.prompt.method}-{command.shots}shot-seed{command.seed}"
    directory = command.output or Path("runs") / name
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"'{directory}' is a file; give another --output.")
    done = epochs_done(directory)
    if done is None and directory.exists() and any(not _is_by_the_way(entry) for entry in directory.iterdir()):
        raise CheckpointError(f"'{directory}' is not empty and holds no run; give another --output.")
    if done and not command.resume:
        raise CheckpointError(
            f"'{directory}' holds a run of {done} epoch{'s' * (done > 1)}; go on with it by --resume, or give another "
            "--output."
        )
    if command.resume and not done:
        note(f"There is no run in {directory} to go on with; this one begins.")
    return directory


def _is_by_the_way(entry: Path) -> bool:
    """Whether it holds nothing of a run: what a start that failed may have left."""
    return entry.name.startswith(".") or entry.name == LOGS


@dataclasses.dataclass(frozen=True)
class _Job:
    """One call of the command."""

    command: TrainCommand
    directory: Path
    data: Dataset
    """The few-shot draw of all classes."""
    chosen: Dataset
    """Of these, the classes to be learned."""
    engine: Engine | None
    """Of several processes, where a launcher has started this one."""

    @property
    def processes(self) -> Processes:
        """Who works on it together."""
        return Processes(self.engine)

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Write a record into the folder of the run."""
        if self.processes.is_first:
            write_json(self.directory / name, record, with_checksum=True)

    @property
    def about(self) -> dict[str, Any]:
        """Facts that a resumed run must share."""
        command = self.command
        return {"shots": command.shots, "classes": command.classes, "context": command.prompt.context}

    def facts(self, backbone: Backbone) -> dict[str, Any]:
        """What the numbers of this run belong to."""
        model = {"backbone": backbone.name, "precision": backbone.precision}
        return {"data": self.data.name, **model, "seed": self.command.seed, **self.about}

    def encode_tests(self, backbone: Backbone, data: Dataset, cache: FeatureCache) -> Features:
        """Features of the test photos; first of all, so that an unreadable one is known before hours of training."""
        workers = 2 if self.command.optimiser.workers is None else self.command.optimiser.workers
        skip = self.command.skip_unreadable
        tests = encode_images(
            backbone, data, workers=workers, skip_unreadable=skip, cache=cache, processes=self.processes
        )
        twice = overlap(tests, data.image_root, hash_training_images(self.data), processes=self.processes)
        if twice:
            note(f"Left out of the test: {len(twice)} photos that are, byte for byte, among those to learn from.")
        return tests.without(twice)

    def learn(self, method: Method, config: TrainConfig, tests: Features | None, cache: FeatureCache, log: Log) -> None:
        """Train the prompt, and measure it where there are test photos."""
        key = method.key
        if config.epochs <= config.warmup_epochs:
            note(
                f"All {config.epochs} epochs are warm-up at a rate of {config.warmup_learning_rate:g}, which changes "
                "little; --warmup-epochs 0 begins at the full rate."
            )
        with training(key) as (on_step, on_encode):
            result = fit(
                method,
                self.chosen,
                config,
                run=self.directory,
                resume=self.command.resume,
                about=self.about,
                engine=self.engine,
                class_parallel=self.command.class_parallel,
                cache=cache,
                on_step=on_step,
                on_epoch=lambda entry: log(epoch_numbers(entry), entry["epoch"]),
                on_encode=on_encode,
            )
        _tell(key, result)
        if tests is not None:
            measured = evaluate(method, tests, engine=self.engine)
            log({"test/accuracy": measured.accuracy, "test/macro_f1": measured.macro_f1}, config.epochs)
            self.write("results.json", {"method": key, **self.facts(method.backbone), **measured.record()})
            out.print(accuracy_table(f"{key} on {self.chosen.name}", [(f"{self.command.classes} classes", measured)]))

    def compare(self, backbone: Backbone, base_tests: Features, new_tests: Features, cache: FeatureCache) -> None:
        """Base to new for zero-shot, CoOp and the method."""
        cached = self.command.compare == "cached"
        if cached and not self.command.cache_features:
            note("The comparison learns from photos encoded once; --compare augmented is as in the papers, and slower.")
        results = [
            self._base_to_new(backbone, key, base_tests, new_tests, cache, cached=cached)
            for key in dict.fromkeys(["zero-shot", "coop", self.command.prompt.method])
        ]
        records = [result.record() for result in results]
        self.write("base_to_new.json", {**self.facts(backbone), "compare": self.command.compare, "methods": records})
        out.print(base_to_new_table(records, f"Base to new classes: {self.data.name}"))

    def _base_to_new(
        self,
        backbone: Backbone,
        key: str,
        base_tests: Features,
        new_tests: Features,
        cache: FeatureCache,
        *,
        cached: bool,
    ) -> Trial:
        mine = key == self.command.prompt.method
        seed = self.command.seed
        # The prompt that was just learned is the very one that the comparison wants: it is not learned twice.
        is_the_run = mine and self.command.classes == "base" and cached == self.command.cache_features
        with training(f"{key} (base)") as (on_step, on_encode):
            result = run_trial(
                backbone,
                key,
                self.data.base(),
                {"base": base_tests, "new": new_tests},
                self.command.config(key, cached=cached),
                settings=self.command.prompt.settings(seed) if mine else None,
                run=self.directory if is_the_run else self.directory / f"compare-{self.command.compare}" / key,
                # A comparison that was stopped goes on together with its run.
                resume=True,
                about=self.about,
                engine=self.engine,
                class_parallel=self.command.class_parallel,
                cache=cache,
                on_step=on_step,
                on_encode=on_encode,
            )
        if result.training and not is_the_run:
            _tell(f"{key} (base)", result.training)
        return result

    def what_is_kept(self) -> str:
        """What Ctrl-C leaves."""
        done = epochs_done(self.directory)
        if not done:
            return "Stopped before one epoch was learned."
        return (
            f"Stopped. {self.directory} keeps the prompt after {done} epoch{'s' * (done > 1)}, ready to predict with; "
            "the same command with --resume goes on."
        )


def _tell(what: str, result: TrainResult) -> None:
    if result.unreadable:
        note(f"Left out of training: {unreadable_message(result.unreadable)}.")
    if result.interrupted:
        raise KeyboardInterrupt
    last = result.history[-1]
    seconds = sum(epoch["seconds"] for epoch in result.history)
    epochs = f"{last['epoch']} epoch{'s' * (last['epoch'] > 1)}"
    note(
        f"{what}: {epochs} in {seconds:.0f} s; in the last one, loss {last['loss']:.3f}, "
        f"accuracy {last['accuracy']:.1f}%."
    )
