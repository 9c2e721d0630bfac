"""Export tiny models of every kind for `test_onnx.py`: python export_driver.py DIRECTORY."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from tiny_models import randomise, save_open_clip, save_transformers

from cocoop import CoCoOp, CoOp, ZeroShot, load_backbone
from cocoop.errors import ConfigError
from cocoop.inference import onnx
from cocoop.inference import onnx_graph as graph

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
            write_refusals(home, backbone)
    save_transformers(home / "models" / "transformers")
    write(
        home, "transformers-cocoop", METHODS["cocoop"](load_backbone(f"local-dir:{home / 'models' / 'transformers'}"))
    )


def write_refusals(home: Path, backbone) -> None:
    """Write the messages for a graph that differs by more than the tolerance, and for one that gives NaN."""
    far, nan = METHODS["cocoop"](backbone), METHODS["cocoop"](backbone)
    next(nan.meta_net.parameters()).data.fill_(float("nan"))
    onnx.TOLERANCE, tolerance = 1e-12, onnx.TOLERANCE
    messages = {"far": error_message(far, home / "refused" / "far")}
    onnx.TOLERANCE = tolerance
    messages["nan"] = error_message(nan, home / "refused" / "nan")
    (home / "refused.json").write_text(json.dumps(messages))


def error_message(method, output: Path) -> str:
    """Return the message of an export that must fail."""
    try:
        onnx.export_onnx(method, output)
    except ConfigError as error:
        return str(error)
    raise SystemExit(f"{output} was exported.")


def write(home: Path, name: str, method) -> None:
    """Export with a Meta-Net that matters; write PyTorch's logits for random images."""
    if hasattr(method, "meta_net"):
        randomise(method.meta_net)
    method.eval()
    prompts = getattr(method, "prompts", None)
    report = onnx.export_onnx(method, home / name)
    assert report.difference < 1e-4
    assert report.logit_difference < 1e-4
    assert getattr(method, "prompts", None) is prompts, "the method is unchanged"
    truth, size = {}, method.preprocessing.size
    for count in (1, 3, 7):
        images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
        truth |= {f"images{count}": images.numpy(), f"logits{count}": method.image_scorer()(images).numpy()}
    np.savez(home / f"{name}.npz", **truth)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
