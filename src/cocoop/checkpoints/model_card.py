"""The model card of a saved method, README.md beside it: what it is, made from what, how good, how to load it.

It is made from records alone: the settings of the method, and what else of a run lies in its folder.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from pydantic import Field

from cocoop.errors import CheckpointError
from cocoop.experiments.records import RECORD, read_record
from cocoop.report.tables import COLUMNS, METHOD_NAMES, base_to_new_caption, base_to_new_values, summary
from cocoop.storage.json_files import read_json
from cocoop.storage.json_schema import NonNegativeInt, Percent, Schema, check_schema

__all__ = ["MOST_CLASSES", "NOWHERE", "model_card"]

CARD = "README.md"
NOWHERE = "USER/NAME"
"""What stands for the repository in the card of a method that is not published."""

MOST_CLASSES = 20
"""Class names that a card spells out; config.json has them all."""

TEMPLATE = Path(__file__).parent / "model_card_template.md"

WHAT = {
    "zero-shot": "Zero-shot CLIP ([arXiv 2103.00020](https://arxiv.org/abs/2103.00020)) with these classes and "
    "templates; nothing was learned.",
    "coop": "A prompt for classifying photos, learned by CoOp ([arXiv 2109.01134](https://arxiv.org/abs/2109.01134)): "
    "one static context for all photos.",
    "cocoop": "A prompt for classifying photos, learned by CoCoOp "
    "([arXiv 2203.05557](https://arxiv.org/abs/2203.05557)): a context that a small Meta-Net shifts for each photo.",
}

UNSEEN = {
    "zero-shot": "Nothing was learned, so any classes will do as well as the backbone knows them.",
    "coop": "CoOp fits its classes: on names that it was not trained on it is often worse than zero-shot CLIP.",
    "cocoop": "Class names that it was not trained on work, but usually less well than those above; measure them on "
    "photos of your own with `cocoop eval`.",
}

LITE = (
    "`lite` is a small backbone for trying things out: it knows ImageNet's classes and their neighbours, little about "
    "style, texture words or text, and is no replacement for CLIP."
)
LICENCE = "The backbone's own licence holds for it, and for what is computed with it."
SMALL = "The numbers above are of the photos above; on photos of another kind expect others."
LOCAL = (
    "The backbone was a file or folder on the machine of the training. Elsewhere, load it from where it is: "
    '`cocoop.from_pretrained("{repo_id}", backbone=cocoop.load_backbone("local-dir:PATH"))`.'
)


@dataclass(frozen=True)
class _Table:
    lead: str
    """What its numbers are."""
    columns: Sequence[str]
    """Their names; the first is that of the rows."""
    rows: Sequence[Sequence[str]]
    """The cells."""


def model_card(config: Mapping[str, Any], directory: Path | None, repo_id: str, **card_data: Any) -> ModelCard:
    """The card.

    Args:
        config: what `config.json` of the saved method holds.
        folder: where a card, or records of the run, may lie; the card is taken as it is, but for the repository.
        repo_id: what is to be loaded by the examples.
        card_data: fields of `huggingface_hub.ModelCardData`, such as `license`, in place of ours.

    Raises:
        CheckpointError: if a record or the card is damaged.
    """
    own = (
        {}
        if directory is None
        else {name: directory / name for name in (CARD, *RECORDS) if (directory / name).is_file()}
    )
    if CARD in own:
        return _written(own[CARD], repo_id, card_data)
    records = {name: _read(path) for name, path in own.items()}
    about: dict[str, Any] = {}
    for record in records.values():
        about |= {**record, **record.get("about", {})}
    check_schema(about, _About, directory or NOWHERE)
    method, backbone = config["method"], config["backbone"]
    source, _, identifier = backbone.partition(":")
    data: dict[str, Any] = {
        "library_name": "cocoop",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "few-shot", "prompt-learning", *([] if method == "zero-shot" else [method])],
        "base_model": identifier.partition("@")[0] if source in ("hf-hub", "transformers") else None,
    }
    tables = [table for name, record in records.items() for table in RECORDS[name](record)]
    is_local = source in ("local-dir", "openai") and bool(identifier)
    limits = [UNSEEN[method], LICENCE]
    limits += [SMALL] * bool(tables) + [LITE] * (backbone == "lite") + [LOCAL.format(repo_id=repo_id)] * is_local
    return ModelCard.from_template(
        ModelCardData(**(data | card_data)),
        template_path=str(TEMPLATE),
        repo_id=repo_id,
        method=METHOD_NAMES[method],
        what=WHAT[method],
        # Where a private folder lies is nobody's business, and no use elsewhere.
        backbone=f"{source}:{Path(identifier).name}" if is_local else backbone,
        data=_plain(about["data"]) if "data" in about else "",
        facts=list(_facts(config, about)),
        classes=_classes(config["classnames"]),
        tables=tables,
        limits=limits,
    )


def _written(path: Path, repo_id: str, card_data: Mapping[str, Any]) -> ModelCard:
    try:
        card = ModelCard(path.read_text(encoding="utf-8").replace(NOWHERE, repo_id))
    # Of YAML, and of what the library finds in it.
    except Exception as error:
        raise CheckpointError(f"'{path}' is no model card: {' '.join(str(error).split())}.") from error
    for name, value in card_data.items():
        card.data[name] = value
    return card


def _read(path: Path) -> dict[str, Any]:
    record = read_record(path) if path.name == RECORD else read_json(path)
    check_schema(record, FORMS[path.name], path)
    return record


def _facts(config: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "precision of the backbone", config["precision"]
    if "data" in about:
        yield "data", _plain(about["data"])
    if about.get("shots") is not None:
        yield "photos a class", str(about["shots"])
    if about.get("classes") in ("base", "new"):
        yield "classes", f"the {about['classes']} ones of the data"
    training = about.get("train") or {}
    seed = about.get("seed", training.get("seed"))
    if seed is not None:
        yield "seed", str(seed)
    for part in (config["settings"], training):
        for name, value in part.items():
            if name not in ("seed", "workers", "skip_unreadable") and value is not None:
                yield name.replace("_", " "), _plain(_short(value))


def _short(value: object) -> object:
    """A setting in words; of a list, such as zero-shot's templates, the beginning."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, list):
        return value
    return ", ".join(map(str, value[:3])) + (f" and {len(value) - 3} more" if len(value) > 3 else "")


def _classes(names: Sequence[str]) -> str:
    listed = ", ".join(_plain(name) for name in names[:MOST_CLASSES])
    more = f" and {len(names) - MOST_CLASSES:,} more, all in `config.json`" if len(names) > MOST_CLASSES else ""
    return f"{len(names):,} classes: {listed}{more}."


def _results(record: Mapping[str, Any]) -> Iterator[_Table]:
    row = [str(record["images"]), f"{record['accuracy']:.1f}", f"{record['macro_f1']:.1f}"]
    yield _Table(
        "This prompt, on photos that it was not trained on:",
        ["test photos of", "images", "accuracy %", "macro F1 %"],
        [[f"{record.get('classes', 'all')} classes", *row]],
    )


def _base_to_new(record: Mapping[str, Any]) -> Iterator[_Table]:
    methods = record["methods"]
    yield _Table(
        "From the base classes (the first half), of which each method learned a prompt of its own, to the new ones "
        f"(the rest), which it never saw; {base_to_new_caption(methods)}:",
        ["method", *COLUMNS],
        [
            [METHOD_NAMES.get(method, method), *(summary(columns[column]) for column in COLUMNS)]
            for method, columns in base_to_new_values(methods).items()
        ],
    )


def _experiment(record: Mapping[str, Any]) -> Iterator[_Table]:
    rows = [
        [_plain(name), str(test["classes"]), str(test["images"]), f"{test['accuracy']:.1f}", f"{test['macro_f1']:.1f}"]
        for name, test in record["tests"].items()
    ]
    mean = record.get("harmonic_mean")
    h = "" if mean is None else f" H of base and new: {mean:.1f} %."
    yield _Table(
        f"The experiment {record['protocol']}, preset {record['preset']}.{h}",
        ["test", "classes", "images", "accuracy %", "macro F1 %"],
        rows,
    )


RECORDS: dict[str, Callable[[Mapping[str, Any]], Iterable[_Table]]] = {
    "training.json": lambda _: (),
    RECORD: _experiment,
    "results.json": _results,
    "base_to_new.json": _base_to_new,
}
"""Records that may lie beside a method, and the tables that are made of each."""


class _About(Schema):
    """What of any record is told."""

    data: str | None = None
    shots: NonNegativeInt | None = None
    seed: NonNegativeInt | None = None
    train: dict[str, Any] | None = None


class _Trained(Schema):
    about: dict[str, Any] = Field(default_factory=dict)


class _Accuracy(Schema):
    accuracy: Percent


class _Measured(_Trained, _Accuracy):
    images: NonNegativeInt
    macro_f1: Percent


class _Method(Schema):
    method: str
    base: _Accuracy
    new: _Accuracy
    harmonic_mean: Percent


class _BaseToNew(_Trained):
    methods: list[_Method]


FORMS: dict[str, type[Schema]] = {
    "training.json": _Trained,
    RECORD: _Trained,
    "results.json": _Measured,
    "base_to_new.json": _BaseToNew,
}
"""Of each record, what its tables are made of."""


def _plain(text: object) -> str:
    """Any text as one line of Markdown that shows it as it is."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", line)
