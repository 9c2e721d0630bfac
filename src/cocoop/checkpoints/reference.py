"""Checkpoints of the papers' own code (CoOp and CoCoOp), read without running anything in them.

A file such as `OUTPUT/prompt_learner/model.pth.tar-10` is a pickled dictionary with the learned tensors (`state_dict`)
and the states of optimizer and scheduler. The scheduler's state holds objects that `torch.load(weights_only=True)`
refuses. For such files, a restricted unpickler reads tensors and plain containers, and replaces everything else by
inert placeholders.

A file also holds the token embeddings of its prompts: the start token (`token_prefix`), and the rest of each prompt
from the class name on (`token_suffix`). They reveal the class names, and whether the backbone is the right one.

Reference: https://github.com/KaiyangZhou/CoOp, trainers/coop.py and trainers/cocoop.py.

Shapes: C classes, M context vectors, T tokens after the context, d text width.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cocoop.backbones.backbone import Backbone
from cocoop.backbones.pickles import load_pickle
from cocoop.backbones.torchscript import TensorUnpickler
from cocoop.backbones.weights import weights_errors
from cocoop.checkpoints.pretrained import load_learned
from cocoop.config import Position
from cocoop.data.dataset import join_names
from cocoop.errors import BackboneError, CheckpointError, ConfigError
from cocoop.methods import CoCoOp, CoOp, Method
from cocoop.text.prompts import name_tokens

__all__ = ["ReferenceCheckpoint", "read_reference"]

META_NET = tuple(f"meta_net.{layer}.{kind}" for layer in ("linear1", "linear2") for kind in ("weight", "bias"))
OURS = {"ctx": "context", **{name: name for name in META_NET}}
"""Names of the learned tensors: theirs to ours."""

BUFFERS = ("token_prefix", "token_suffix")
"""Tensors that are not learned."""

MAX_START_DISTANCE = 0.02
"""Largest relative distance between the start tokens of file and backbone; bf16 rounds by a thousandth."""


@dataclass(frozen=True)
class ReferenceCheckpoint:
    """Content of a checkpoint file."""

    path: Path
    """The file, for messages."""
    learned: dict[str, Tensor]
    """Learned tensors by our names, in the file's data type."""
    token_prefix: Float[Tensor, "_ 1 d"] | None
    """Embedding of the start token, once per class."""
    token_suffix: Float[Tensor, "C T d"] | None
    """Embeddings of each class's name, full stop, end token and padding."""

    @property
    def method(self) -> str:
        """Name of the method; only CoCoOp has a Meta-Net."""
        return CoCoOp.key if len(self.learned) > 1 else CoOp.key

    def restore(
        self, backbone: Backbone, classnames: Sequence[str] | None = None, position: Position = "end"
    ) -> Method:
        """Return the trained method.

        Args:
            backbone: the backbone that the prompt was trained on.
            classnames: class names in the order of the labels in training; None: take them from the file.
            position: position of the class name among CoOp's context vectors; it is not stored in the file.

        Raises:
            CheckpointError: if tensors do not fit the backbone or the classes, or the file has no class names.
            ConfigError: for a position other than `end` with CoCoOp.
            PromptError: if a class name cannot be used in a prompt.
        """
        self._check_backbone(backbone)
        names = self.classnames(backbone) if classnames is None else classnames
        context = self.learned["context"]
        if self.method == CoCoOp.key:
            if position != "end":
                raise ConfigError(f"`position` is {position!r}, but in CoCoOp the class name is always at the end.")
            method: Method = CoCoOp(backbone, names, context=None, context_length=len(context))
        else:
            specific = context.dim() == 3
            if specific and len(names) != len(context):
                raise CheckpointError(
                    f"'{self.path}' has contexts for {len(context)} classes, but there are {len(names)} class names; "
                    "pass those of the training as `classnames`, in the same order."
                )
            length = context.shape[-2]
            method = CoOp(backbone, names, context_length=length, class_specific=specific, position=position)
        load_learned(method, self.learned, self.path)
        return method.eval()

    def classnames(self, backbone: Backbone) -> list[str]:
        """Return the class names used in training, in lower case, decoded from their token embeddings.

        Raises:
            CheckpointError: if they cannot be decoded.
        """
        # CLIP was published in half precision.
        table = backbone.text_tower.token_embedding.weight.detach().half().cpu().numpy()
        id_of = {row.tobytes(): token for token, row in enumerate(table)}
        suffixes = () if self.token_suffix is None else self.token_suffix.half().numpy()
        names = [_decode_name([id_of.get(vector.tobytes(), -1) for vector in row], backbone) for row in suffixes]
        found = [name for name in names if name is not None]
        if not names or len(found) < len(names):
            raise CheckpointError(
                f"The class names of '{self.path}' cannot be decoded on {backbone.name} ({backbone.precision}); pass "
                "them as `classnames`, in the order of their labels in training."
            )
        return found

    def _check_backbone(self, backbone: Backbone) -> None:
        width = backbone.text_tower.config.width
        found = self.learned["context"].shape[-1]
        advice = "pass the `backbone` it was trained on."
        if found != width:
            raise CheckpointError(
                f"'{self.path}' was trained on a text tower of width {found}, but {backbone.name} has {width}; {advice}"
            )
        if self.method == CoCoOp.key:
            found = self.learned[META_NET[0]].shape[-1]
            if found != backbone.embed_dim:
                raise CheckpointError(
                    f"The Meta-Net in '{self.path}' takes image features of size {found}, but those of {backbone.name} "
                    f"have {backbone.embed_dim}; {advice}"
                )
        if self.token_prefix is not None:
            start = backbone.text_tower.token_embedding.weight[backbone.tokenizer.sos].float().cpu()
            if (self.token_prefix.float() - start).norm(dim=-1).max() > MAX_START_DISTANCE * start.norm():
                raise CheckpointError(
                    f"'{self.path}' was trained on another text tower than that of {backbone.name}: their start "
                    f"tokens differ; {advice}"
                )


def read_reference(path: str | Path) -> ReferenceCheckpoint:
    """Read a checkpoint of the papers' code without running anything in it.

    Args:
        path: a file such as `OUTPUT/prompt_learner/model.pth.tar-10`.

    Raises:
        CheckpointError: if the file is missing, damaged or not such a checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(str(file) for file in path.rglob("model*.pth.tar*"))
        hint = f"it contains {join_names(found)}" if found else "the file is called model.pth.tar-EPOCH"
        raise CheckpointError(f"'{path}' is a directory; give a file: {hint}.")
    if not path.is_file():
        raise CheckpointError(f"There is no file '{path}'.")
    try:
        with weights_errors(path):
            content = _load_content(path)
    except BackboneError as error:
        raise CheckpointError(str(error)) from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"'{path}' is not a checkpoint of CoOp or CoCoOp: it has no `state_dict` of tensors.")
    # Strip the prefixes of models that were trained on several GPUs or saved as one model.
    tensors = {re.sub(r"^((module|prompt_learner)\.)+", "", str(name)): tensor for name, tensor in state.items()}
    _check_names(tensors, path)
    learned = {ours: tensors[theirs] for theirs, ours in OURS.items() if theirs in tensors}
    return ReferenceCheckpoint(path, learned, *(tensors.get(name) for name in BUFFERS))


def _check_names(tensors: dict[str, Tensor], path: Path) -> None:
    unknown = sorted(tensors.keys() - OURS.keys() - set(BUFFERS))
    if unknown:
        raise CheckpointError(
            f"'{path}' is not a checkpoint of CoOp's or CoCoOp's prompt learner: it also holds {join_names(unknown)}."
        )
    expected = ("ctx", *META_NET) if tensors.keys() & set(META_NET) else ("ctx",)
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise CheckpointError(f"'{path}' is not a checkpoint of CoOp or CoCoOp: it has no {join_names(missing)}.")
    dimensions = {"ctx": (2, 3) if len(expected) == 1 else (2,), "token_prefix": (3,), "token_suffix": (3,)}
    dimensions |= {name: (2,) if name.endswith("weight") else (1,) for name in META_NET}
    for name, tensor in tensors.items():
        if tensor.dim() not in dimensions[name] or not tensor.is_floating_point():
            raise CheckpointError(f"'{path}' is damaged: {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}.")


def _load_content(path: Path) -> Any:
    try:
        return load_pickle(path)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
        with zipfile.ZipFile(path) as archive:
            directory = next((n for n in archive.namelist() if n.endswith("/data.pkl")), "").removesuffix("data.pkl")
            return _PlainUnpickler(archive, directory).load()


class _PlainUnpickler(TensorUnpickler):
    """Unpickler for tensors and plain containers that replaces everything else by inert placeholders."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a class or function that the pickle names; none is imported."""
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        try:
            return super().find_class(module, name)
        except pickle.UnpicklingError:
            # A new class each time, so that a pickle that modifies one does not modify the others.
            return type("_Inert", (_Inert,), {})


class _Inert:
    """Placeholder for an object of any class, or the result of any call."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> _Inert:
        return self

    def append(self, value: object) -> None:
        """Ignore an item, as `extend` and `add` do."""

    extend = add = append


def _parameter(data: Tensor, *_: object) -> Tensor:
    return data


def _decode_name(tokens: list[int], backbone: Backbone) -> str | None:
    """Return the class name in the tokens of `<name>.[EOT]...`; None if it cannot be recovered exactly."""
    tokenizer = backbone.tokenizer
    if tokenizer.eot not in tokens:
        return None
    prompt = tokens[: tokens.index(tokenizer.eot)]
    if not prompt or min(prompt) < 0:
        return None
    name = tokenizer.decode(prompt).strip().removesuffix(".").strip()
    before, stop = name_tokens(tokenizer, name) if name else ([], [])
    return name if before + stop == prompt else None
