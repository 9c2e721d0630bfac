"""Image features on disk: an image is encoded once for all runs with the same backbone.

The key of a feature is everything that determines it: the weights, architecture and precision of the image tower, the
preprocessing, and the bytes of the image file. Names and directories of files do not matter. Features are stored in
shards that are written atomically, never changed, and named by the hash of their content. So several runs may share a
cache directory, and a damaged shard is noticed and skipped.

    DIRECTORY/<hash of image tower and preprocessing>/<hash of the shard>.safetensors

Shapes: e joint embedding size.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from cocoop.backbones.backbone import Backbone
from cocoop.backbones.fingerprint import image_side_key
from cocoop.errors import DamageWarning
from cocoop.storage.atomic import remove_stale_files, write_atomic
from cocoop.storage.cache_directory import cache_directory
from cocoop.storage.hashing import hash_content

__all__ = ["FeatureCache", "default_cache_directory"]


def default_cache_directory() -> Path:
    """Return `$COCOOP_CACHE/features`, or `cocoop/features` in the user's cache directory."""
    return cache_directory() / "features"


class FeatureCache:
    """Features of one backbone, by the SHA-256 of the image file.

    Args:
        directory: created when the first features are added; None: features are kept in memory only.
        backbone: the model that encodes the images.
    """

    def __init__(self, directory: Path | None, backbone: Backbone) -> None:
        self.directory = None if directory is None else directory / image_side_key(backbone)
        if self.directory is not None:
            remove_stale_files(self.directory, "*.safetensors")
        self._features: dict[str, Float[Tensor, " e"]] = {}
        self._loaded: set[Path] = set()

    def load(self) -> Mapping[str, Float[Tensor, " e"]]:
        """Return all features, including those that other runs have added since the last call."""
        for shard in sorted(self.directory.glob("*.safetensors")) if self.directory else ():
            if shard not in self._loaded:
                self._loaded.add(shard)
                self._features |= _read_shard(shard)
        return self._features

    def add(self, features: Mapping[str, Float[Tensor, " e"]]) -> None:
        """Store features by image hash.

        Raises:
            CheckpointError: if the shard cannot be written.
        """
        if self.directory is None or not features:
            self._features |= features
            return
        hashes = sorted(features)
        tensors = {"features": torch.stack([features[key].float().cpu() for key in hashes])}
        content = safetensors.torch.save(tensors, {"images": json.dumps(hashes)})
        shard = self.directory / f"{hash_content(content)}.safetensors"
        write_atomic(shard, content)
        self._loaded.add(shard)
        self._features |= dict(zip(hashes, tensors["features"], strict=True))


def _read_shard(shard: Path) -> dict[str, Float[Tensor, " e"]]:
    try:
        content = shard.read_bytes()
        if hash_content(content) != shard.stem:
            raise ValueError("its content does not match its name")
        features = safetensors.torch.load(content)["features"]
        # A safetensors file starts with the length of its JSON header, in 8 bytes.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return dict(zip(json.loads(header["__metadata__"]["images"]), features, strict=True))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError):
        message = f"The feature cache file '{shard}' is damaged; its images are encoded again. It can be deleted."
        warnings.warn(message, DamageWarning, stacklevel=3)
        return {}
