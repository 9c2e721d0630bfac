"""Model cards: the README.md of a saved prompt, rendered from its settings and the records of its run."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from cocoop.config import METHOD_NAMES
from cocoop.errors import CheckpointError, one_line
from cocoop.storage.json_files import read_json

__all__ = ["CARD", "model_card"]

CARD = "README.md"
TEMPLATE = Path(__file__).parent / "model_card_template.md"

UNPUBLISHED = "USER/NAME"
"""Name of the repository in the card of a prompt that is not published."""

MAX_CLASSES = 20
"""Largest number of class names in a card."""

DESCRIPTIONS = {
    "zero-shot": "Zero-shot CLIP ([arXiv 2103.00020](https://arxiv.org/abs/2103.00020)) with these classes and "
    "templates; nothing was trained.",
    "coop": "An image-classification prompt trained with CoOp "
    "([arXiv 2109.01134](https://arxiv.org/abs/2109.01134)): one context for all images.",
    "cocoop": "An image-classification prompt trained with CoCoOp "
    "([arXiv 2203.05557](https://arxiv.org/abs/2203.05557)): a context that a small Meta-Net shifts for each image.",
}

NEW_CLASSES = {
    "zero-shot": "Nothing was trained, so any class names can be used, as well as the backbone knows them.",
    "coop": "CoOp fits its classes: on names that it was not trained on, it is often worse than zero-shot CLIP.",
    "cocoop": "Class names that it was not trained on work, but usually less well than those above; measure them on "
    "your own images with `cocoop eval`.",
}

LITE = (
    "`lite` is a small backbone for experiments: it knows the classes of ImageNet and similar ones, but little about "
    "style, texture or text. It does not replace CLIP."
)
LICENCE = "The licence of the backbone applies to the backbone, and to everything computed with it."
OTHER_IMAGES = "The results above are for the images above; expect others on different images."
LOCAL = (
    "The backbone was a local file or directory. On another machine, pass its location: "
    '`cocoop.from_pretrained("{repo_id}", backbone=cocoop.load_backbone("local-dir:PATH"))`.'
)


@dataclass(frozen=True)
class _Table:
    lead: str
    """Sentence above the table."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def model_card(
    config: Mapping[str, Any], *, directory: str | Path | None = None, repo_id: str = UNPUBLISHED, **card_data: Any
) -> ModelCard:
    """Return the model card of a saved prompt.

    Args:
        config: content of its config.json.
        directory: run directory with records to show. If it has a card, that card is returned, with `repo_id` filled
            in.
        repo_id: name of the hub repository in the examples.
        card_data: fields of `huggingface_hub.ModelCardData`, such as `license`.

    Raises:
        CheckpointError: if a record or the card is damaged.
    """
    if directory is not None and (Path(directory) / CARD).is_file():
        return _existing_card(Path(directory) / CARD, repo_id, card_data)
    about: dict[str, Any] = {}
    tables: list[_Table] = []
    try:
        for name, render in RECORDS.items():
            if directory is not None and (Path(directory) / name).is_file():
                record = read_json(Path(directory) / name)
                about |= {**record, **record.get("about", {})}
                tables += [render(record)] if render else []
        facts = list(_facts(config, about))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"A record in '{directory}' is damaged ({type(error).__name__}: {error}).") from error
    method, backbone = config["method"], config["backbone"]
    source, _, identifier = backbone.partition(":")
    data: dict[str, Any] = {
        "library_name": "cocoop",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "few-shot", "prompt-learning", *([] if method == "zero-shot" else [method])],
        "base_model": identifier.partition("@")[0] if source in ("hf-hub", "transformers") else None,
    }
    is_local = source in ("local-dir", "openai") and bool(identifier)
    limits = [NEW_CLASSES[method]] if method in NEW_CLASSES else []
    limits.append(LICENCE)
    if tables:
        limits.append(OTHER_IMAGES)
    if backbone == "lite":
        limits.append(LITE)
    if is_local:
        limits.append(LOCAL.format(repo_id=repo_id))
    return ModelCard.from_template(
        ModelCardData(**(data | card_data)),
        template_path=str(TEMPLATE),
        repo_id=repo_id,
        method=METHOD_NAMES.get(method, method),
        description=DESCRIPTIONS.get(method, f"An image-classification prompt trained with {method}."),
        # The path of a local directory is private, and useless elsewhere.
        backbone=f"{source}:{Path(identifier).name}" if is_local else backbone,
        data=_escape(about["data"]) if "data" in about else "",
        facts=facts,
        classes=_class_list(config["classnames"]),
        tables=tables,
        limits=limits,
    )


def _existing_card(path: Path, repo_id: str, card_data: Mapping[str, Any]) -> ModelCard:
    try:
        card = ModelCard(path.read_text(encoding="utf-8").replace(UNPUBLISHED, repo_id))
    # YAML and huggingface_hub raise unrelated errors for invalid metadata.
    except Exception as error:
        raise CheckpointError(f"'{path}' is not a model card: {one_line(error)}.") from error
    for name, value in card_data.items():
        card.data[name] = value
    return card


def _facts(config: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "precision of the backbone", config["precision"]
    if "data" in about:
        yield "data", _escape(about["data"])
    if about.get("shots") is not None:
        yield "images per class", str(about["shots"])
    if about.get("classes") in ("base", "new"):
        yield "classes", f"the {about['classes']} classes of the data"
    training = about.get("train") or {}
    seed = about.get("seed", training.get("seed"))
    if seed is not None:
        yield "seed", str(seed)
    for settings in (config["settings"], training):
        for name, value in settings.items():
            if name not in ("seed", "workers", "skip_unreadable") and value is not None:
                yield name.replace("_", " "), _escape(_shorten(value))


def _shorten(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, list):
        return value
    return ", ".join(map(str, value[:3])) + (f" and {len(value) - 3} more" if len(value) > 3 else "")


def _class_list(names: Sequence[str]) -> str:
    shown = ", ".join(_escape(name) for name in names[:MAX_CLASSES])
    more = f" and {len(names) - MAX_CLASSES:,} more, all in `config.json`" if len(names) > MAX_CLASSES else ""
    return f"{len(names):,} classes: {shown}{more}."


def _escape(text: object) -> str:
    """Return any text as one line of Markdown that shows it literally."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", line)


def _results(record: Mapping[str, Any]) -> _Table:
    row = [str(record["images"]), f"{record['accuracy']:.1f}", f"{record['macro_f1']:.1f}"]
    return _Table(
        "This prompt, on test images:",
        ["classes", "images", "accuracy %", "macro F1 %"],
        [[f"{record.get('classes', 'all')} classes", *row]],
    )


def _base_to_new(record: Mapping[str, Any]) -> _Table:
    rows = [
        (entry["method"], entry["base"]["accuracy"], entry["new"]["accuracy"], entry["harmonic_mean"])
        for entry in record["methods"]
    ]
    return _Table(
        "Base to new: each method was trained on the base classes (the first half) and tested on them and on the "
        "new classes (the rest). Accuracy in %; H is the harmonic mean of both.",
        ["method", "base", "new", "H"],
        [[METHOD_NAMES.get(method, method), *(f"{number:.1f}" for number in numbers)] for method, *numbers in rows],
    )


def _experiment(record: Mapping[str, Any]) -> _Table:
    rows = [
        [_escape(name), str(test["classes"]), str(test["images"]), f"{test['accuracy']:.1f}", f"{test['macro_f1']:.1f}"]
        for name, test in record["tests"].items()
    ]
    mean = record.get("harmonic_mean")
    h = "" if mean is None else f" Harmonic mean H of base and new: {mean:.1f} %."
    return _Table(
        f"The experiment {record['protocol']}, preset {record['preset']}.{h}",
        ["test", "classes", "images", "accuracy %", "macro F1 %"],
        rows,
    )


RECORDS: dict[str, Callable[[Mapping[str, Any]], _Table] | None] = {
    "training.json": None,
    "record.json": _experiment,
    "results.json": _results,
    "base_to_new.json": _base_to_new,
}
"""Records that a run directory may hold, and functions that render them as tables."""
