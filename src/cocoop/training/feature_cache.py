"""Image features on disk, so that a photo is encoded once for all runs with the same backbone.

A feature is found by what it was made of: the image tower's weights and number type, the preprocessing, and the bytes
of the photo; names and places of files do not matter. Features are written in shards that are never changed
afterwards, each whole or not at all and named by the hash of its content: two runs may share a folder, and a damaged
shard is noticed and passed over.

    FOLDER/<hash of backbone and preprocessing>/<hash of the shard>.safetensors

Shapes: N photos, e joint embedding size.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from cocoop.backbones.backbone import Backbone
from cocoop.backbones.fingerprint import image_side_key
from cocoop.data.dataset import ImagePath
from cocoop.errors import DamageWarning
from cocoop.storage.atomic import remove_stale_files, write_atomic
from cocoop.storage.cache_directory import cache_directory
from cocoop.storage.hashing import hash_content

__all__ = ["FeatureCache", "default_cache_directory", "hash_image"]


def default_cache_directory() -> Path:
    """Where features are kept: `$COCOOP_CACHE/features`, or `cocoop/features` in the user's cache folder."""
    return cache_directory() / "features"


def hash_image(path: ImagePath) -> str | None:
    """SHA-256 of a photo's bytes; None if it cannot be read, which its decoder will explain."""
    try:
        return hash_content(path.read_bytes())
    except OSError:
        return None


class FeatureCache:
    """The features of one backbone that a folder holds.

    Args:
        folder: made when the first features are added; None: features are kept in memory only.
        backbone: whose image tower and preprocessing the features must come from.
    """

    def __init__(self, directory: Path | None, backbone: Backbone) -> None:
        self.directory = None if directory is None else directory / image_side_key(backbone)
        if self.directory is not None:
            remove_stale_files(self.directory, "*.safetensors")
        self._features: dict[str, Float[Tensor, " e"]] = {}
        self._read: set[Path] = set()

    def find(self, keys: Iterable[str]) -> dict[str, Float[Tensor, " e"]]:
        """Features of those photos that are known, by key; shards that another run added are seen."""
        for shard in sorted(self.directory.glob("*.safetensors")) if self.directory else ():
            if shard not in self._read:
                self._read.add(shard)
                self._features |= self._load(shard)
        return {key: self._features[key] for key in keys if key in self._features}

    def add(self, features: Mapping[str, Float[Tensor, " e"]]) -> None:
        """Keep the features of photos, by key.

        Raises:
            CheckpointError: if the disk refuses; nothing half-written stays.
        """
        if self.directory is None or not features:
            self._features |= features
            return
        keys = sorted(features)
        tensors = {"features": torch.stack([features[key].float().cpu() for key in keys])}
        content = safetensors.torch.save(tensors, {"images": json.dumps(keys)})
        shard = self.directory / f"{hash_content(content)}.safetensors"
        write_atomic(shard, content)
        self._read.add(shard)
        self._features |= dict(zip(keys, tensors["features"], strict=True))

    def _load(self, shard: Path) -> dict[str, Float[Tensor, " e"]]:
        try:
            content = shard.read_bytes()
            if hash_content(content) != shard.stem:
                raise ValueError("its content is not what its name says")
            features = safetensors.torch.load(content)["features"]
            # The header is a length of 8 bytes and as many bytes of JSON.
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            keys = json.loads(header["__metadata__"]["images"])
            if not all(isinstance(key, str) for key in keys) or (features.dim(), features.dtype) != (2, torch.float32):
                raise ValueError("it holds something else")
            return dict(zip(keys, features, strict=True))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError):
            told = f"'{shard}' is damaged; its photos are encoded again. It can be deleted."
            warnings.warn(told, DamageWarning, stacklevel=3)
            return {}
