"""Exports tiny models of every kind for `test_export.py`: python export_driver.py FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from tiny_models import randomise, save_open_clip, save_transformers

from cocoop import CoCoOp, CoOp, ZeroShot, load_backbone
from cocoop.errors import ConfigError
from cocoop.inference import onnx as directory
from cocoop.inference import onnx_graph as graph
from cocoop.inference.onnx import export

NAMES = ["cat", "dog", "tree frog", "tree", "café au lait"]
METHODS = {
    "zero-shot": lambda backbone: ZeroShot(backbone, NAMES),
    "coop-end": lambda backbone: CoOp(backbone, NAMES, context="a photo of a"),
    "coop-middle": lambda backbone: CoOp(backbone, NAMES, context_length=5, position="middle", seed=1),
    "cocoop": lambda backbone: CoCoOp(backbone, NAMES, seed=1),
}


def main(home: Path) -> None:
    torch.set_num_threads(1)
    for kind in ("vit", "resnet"):
        backbone = load_backbone(f"local-dir:{save_open_clip(home / 'models' / kind, kind)}")
        for name, make in METHODS.items() if kind == "vit" else [("cocoop", METHODS["cocoop"])]:
            write(home, f"{kind}-{name}", make(backbone))
        if kind == "vit":
            (home / "vit-cocoop.rows.json").write_text(json.dumps({"rows": METHODS["cocoop"](backbone).prompts.rows}))
            graph.GRAPH_ROWS, rows = 12, graph.GRAPH_ROWS
            write(home, "vit-cocoop-several-trees", METHODS["cocoop"](backbone))
            graph.GRAPH_ROWS = rows
            graph.LARGEST_FILE, largest = 1, graph.LARGEST_FILE
            write(home, "vit-cocoop-weights-apart", METHODS["cocoop"](backbone))
            graph.LARGEST_FILE = largest
            refuse_what_is_not_pytorchs(home, backbone)
    save_transformers(home / "models" / "transformers")
    write(
        home, "transformers-cocoop", METHODS["cocoop"](load_backbone(f"local-dir:{home / 'models' / 'transformers'}"))
    )


def refuse_what_is_not_pytorchs(home: Path, backbone) -> None:
    """Keep what is said of a graph that is further away than allowed, and of one whose numbers are none."""
    far, nan = METHODS["cocoop"](backbone), METHODS["cocoop"](backbone)
    next(nan.meta_net.parameters()).data.fill_(float("nan"))
    directory.TOLERANCE, tolerance = 1e-12, directory.TOLERANCE
    said = {"far": refusal(far, home / "refused" / "far")}
    directory.TOLERANCE = tolerance
    said["nan"] = refusal(nan, home / "refused" / "nan")
    (home / "refused.json").write_text(json.dumps(said))


def refusal(method, output: Path) -> str:
    """What an export says that must not succeed."""
    try:
        export(method, output)
    except ConfigError as error:
        return str(error)
    raise SystemExit(f"{output} was exported.")


def write(home: Path, name: str, method) -> None:
    """Export with a Meta-Net that matters; keep what PyTorch gives for images that differ."""
    if hasattr(method, "meta_net"):
        randomise(method.meta_net)
    method.eval()
    prompts = getattr(method, "prompts", None)
    report = export(method, home / name)
    assert report.difference < 1e-4
    assert report.logit_difference < 1e-4
    assert getattr(method, "prompts", None) is prompts, "the method stays as it was"
    truth, size = {}, method.preprocessing.size
    for count in (1, 3, 7):
        images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
        truth |= {f"images{count}": images.numpy(), f"logits{count}": method.image_scorer()(images).numpy()}
    np.savez(home / f"{name}.npz", **truth)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
