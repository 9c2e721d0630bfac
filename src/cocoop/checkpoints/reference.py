"""Checkpoints of the reference implementation of CoOp and CoCoOp, read without running what is in them.

Such a file, `OUTPUT/prompt_learner/model.pth.tar-10`, is a pickled dictionary: the learned tensors (`state_dict`), and
the states of optimiser and scheduler. The scheduler's holds whole objects, which `torch.load(weights_only=True)`
refuses: then a restricted reader takes tensors and plain containers, and makes everything else an inert placeholder.

Besides what was learned, a file holds the token embeddings of its prompts: the start token (`token_prefix`), and each
class's name up to the end token (`token_suffix`). They are not needed, but they tell the class names, and whether the
backbone is the one that the prompt was learned with.

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
from cocoop.backbones.weights import readable
from cocoop.checkpoints.pretrained import load_learned
from cocoop.config import Position
from cocoop.data.dataset import listed
from cocoop.errors import BackboneError, CheckpointError, ConfigError
from cocoop.methods import CoCoOp, CoOp, Method
from cocoop.text.prompts import name_tokens

__all__ = ["ReferenceCheckpoint", "read_reference"]

META_NET = tuple(f"meta_net.{layer}.{kind}" for layer in ("linear1", "linear2") for kind in ("weight", "bias"))
OURS = {"ctx": "context", **{name: name for name in META_NET}}
"""Our names of learned tensors, by theirs."""

BUFFERS = ("token_prefix", "token_suffix")
"""Tensors that were not learned."""

SAME_BACKBONE = 0.02
"""Relative distance up to which start tokens are the same one; bf16 rounds by a thousandth."""


@dataclass(frozen=True)
class ReferenceCheckpoint:
    """What a file of the reference implementation holds."""

    path: Path
    """The file, for messages."""
    learned: dict[str, Tensor]
    """Learned tensors by our names, in the file's number type."""
    token_prefix: Float[Tensor, "_ 1 d"] | None
    """Embedding of the start token, once a class."""
    token_suffix: Float[Tensor, "C T d"] | None
    """Embeddings of each class's name, full stop, end token and padding."""

    @property
    def method(self) -> str:
        """The method that wrote it: only CoCoOp has a Meta-Net."""
        return CoCoOp.key if len(self.learned) > 1 else CoOp.key

    def restore(
        self, backbone: Backbone, classnames: Sequence[str] | None = None, position: Position = "end"
    ) -> Method:
        """The method that was learned, on its backbone.

        Args:
            backbone: the one it was learned with.
            classnames: in the order of the labels in training; None: as the token buffers tell.
            position: of the class name among CoOp's context vectors, which a file does not tell.

        Raises:
            CheckpointError: if tensors do not fit the backbone or the classes, or the class names are not told.
            ConfigError: for a position that CoCoOp does not have.
            PromptError: for class names that cannot be made into prompts.
        """
        self._check_backbone(backbone)
        names = self.classnames(backbone) if classnames is None else classnames
        context = self.learned["context"]
        if self.method == CoCoOp.key:
            if position != "end":
                raise ConfigError(f"--position is {position!r}, but CoCoOp's class name always stands at the end.")
            method: Method = CoCoOp(backbone, names, context=None, context_length=len(context))
        else:
            own = context.dim() == 3
            if own and len(names) != len(context):
                raise CheckpointError(
                    f"'{self.path}' has contexts of {len(context)} classes, and there are {len(names)} class names; "
                    "give by --classes those of the training, in its order."
                )
            method = CoOp(backbone, names, context_length=context.shape[-2], class_specific=own, position=position)
        load_learned(method, self.learned, self.path)
        return method.eval()

    def classnames(self, backbone: Backbone) -> list[str]:
        """The class names of the training, in lower case, from the embeddings of their tokens.

        Raises:
            CheckpointError: if the file does not tell them.
        """
        ids_of = _ids_by_embedding(backbone)
        names = []
        for row in () if self.token_suffix is None else self.token_suffix.half().numpy():
            tokens = [ids_of.get(vector.tobytes(), -1) for vector in row]
            name = _name_of(tokens, backbone)
            if name is None:
                break
            names.append(name)
        if self.token_suffix is None or len(names) < len(self.token_suffix):
            raise CheckpointError(
                f"'{self.path}' does not tell its class names on {backbone.name} ({backbone.precision}); give them by "
                "--classes, in the order of their labels in training."
            )
        return names

    def _check_backbone(self, backbone: Backbone) -> None:
        """Refuse a backbone that the prompt was not learned with, as far as the file tells.

        Raises:
            CheckpointError: saying what differs.
        """
        width = backbone.text_tower.config.width
        seen = self.learned["context"].shape[-1]
        if seen != width:
            raise CheckpointError(
                f"'{self.path}' was learned on a text tower of width {seen}, and {backbone.name} has {width}; give by "
                "--backbone the one it was learned with."
            )
        if self.method == CoCoOp.key:
            seen = self.learned[META_NET[0]].shape[-1]
            if seen != backbone.embed_dim:
                raise CheckpointError(
                    f"The Meta-Net in '{self.path}' takes image features of size {seen}, and those of {backbone.name} "
                    f"have {backbone.embed_dim}; give by --backbone the one it was learned with."
                )
        if self.token_prefix is not None:
            start = backbone.text_tower.token_embedding.weight[backbone.tokenizer.sos].float().cpu()
            if (self.token_prefix.float() - start).norm(dim=-1).max() > SAME_BACKBONE * start.norm():
                raise CheckpointError(
                    f"'{self.path}' was learned on another text tower than that of {backbone.name}: their start "
                    "tokens differ. Give by --backbone the one it was learned with."
                )


def read_reference(path: str | Path) -> ReferenceCheckpoint:
    """Read a file of the reference implementation; nothing in it is run.

    Args:
        path: such as `OUTPUT/prompt_learner/model.pth.tar-10`.

    Raises:
        CheckpointError: if it is missing, damaged, or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(str(file) for file in path.rglob("model*.pth.tar*"))
        hint = f"it has {listed(found)}" if found else "the file is called model.pth.tar-EPOCH"
        raise CheckpointError(f"'{path}' is a folder; give a file: {hint}.")
    if not path.is_file():
        raise CheckpointError(f"There is no file '{path}'.")
    try:
        with readable(path):
            content = _content(path)
    except BackboneError as error:
        raise CheckpointError(str(error)) from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"'{path}' holds no `state_dict` of tensors; it is no checkpoint of CoOp or CoCoOp.")
    # Training on several GPUs, or saving the whole model, puts these before a name.
    tensors = {re.sub(r"^((module|prompt_learner)\.)+", "", str(name)): tensor for name, tensor in state.items()}
    _check_names(tensors, path)
    learned = {ours: tensors[theirs] for theirs, ours in OURS.items() if theirs in tensors}
    return ReferenceCheckpoint(path, learned, *(tensors.get(name) for name in BUFFERS))


def _check_names(tensors: dict[str, Tensor], path: Path) -> None:
    unknown = sorted(tensors.keys() - OURS.keys() - set(BUFFERS))
    if unknown:
        raise CheckpointError(
            f"'{path}' is no checkpoint of CoOp's or CoCoOp's prompt learner: it also holds {listed(unknown)}."
        )
    wanted = ("ctx", *META_NET) if tensors.keys() & set(META_NET) else ("ctx",)
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise CheckpointError(f"'{path}' is no checkpoint of CoOp or CoCoOp: it has no {listed(missing)}.")
    forms = {"ctx": (2, 3) if len(wanted) == 1 else (2,), "token_prefix": (3,), "token_suffix": (3,)}
    forms |= {name: (2,) if name.endswith("weight") else (1,) for name in META_NET}
    for name, tensor in tensors.items():
        if tensor.dim() not in forms[name] or not tensor.is_floating_point():
            raise CheckpointError(f"'{path}' is damaged: {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}.")


def _content(path: Path) -> Any:
    try:
        return load_pickle(path)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
        with zipfile.ZipFile(path) as archive:
            directory = next((n for n in archive.namelist() if n.endswith("/data.pkl")), "").removesuffix("data.pkl")
            return _PlainUnpickler(archive, directory).load()


class _PlainUnpickler(TensorUnpickler):
    """Reads tensors and plain containers; what would be anything else becomes a placeholder that does nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """What a global name in the pickle stands for; none is ever looked up."""
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        try:
            return super().find_class(module, name)
        except pickle.UnpicklingError:
            # A class of its own for each: were one changed by the pickle, the others would not be.
            return type("_Inert", (_Inert,), {})


class _Inert:
    """Stands for an object of any class, or the result of any call."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> _Inert:
        return self

    def append(self, value: object) -> None:
        """For lists of a class of their own, as `extend` and `add`."""

    extend = add = append


def _parameter(data: Tensor, *_: object) -> Tensor:
    return data


def _ids_by_embedding(backbone: Backbone) -> dict[bytes, int]:
    """Token ids by the bytes of their embeddings in half precision, in which CLIP was published."""
    table = backbone.text_tower.token_embedding.weight.detach().half().cpu().numpy()
    return {row.tobytes(): token for token, row in enumerate(table)}


def _name_of(tokens: list[int], backbone: Backbone) -> str | None:
    """The class name in `<name>.[EOT]...`; None if it is not there, or would not give these tokens again."""
    tokenizer = backbone.tokenizer
    if tokenizer.eot not in tokens:
        return None
    prompt = tokens[: tokens.index(tokenizer.eot)]
    if not prompt or min(prompt) < 0:
        return None
    name = tokenizer.decode(prompt).strip().removesuffix(".").strip()
    before, stop = name_tokens(tokenizer, name) if name else ([], [])
    return name if before + stop == prompt else None
