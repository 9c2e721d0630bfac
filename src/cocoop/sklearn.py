"""A scikit-learn estimator for prompt learning, for use in pipelines, cross-validation and searches.

from cocoop.sklearn import CoCoOpClassifier

scores = cross_val_score(CoCoOpClassifier(epochs=5), paths, labels)
"""

# ruff: noqa: N803 - scikit-learn calls it X

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cocoop.backbones import load_backbone
from cocoop.config import TrainConfig, paper_config
from cocoop.data import Dataset, Item
from cocoop.errors import ConfigError
from cocoop.inference.classifier import Classifier
from cocoop.methods import METHODS, Method, ZeroShot
from cocoop.training.fit import fit

__all__ = ["CoCoOpClassifier"]

# A search fits many times on the same backbone.
_backbone = lru_cache(maxsize=1)(load_backbone)


class CoCoOpClassifier(ClassifierMixin, BaseEstimator):
    """Image classifier with a learned prompt; images are given as paths.

    Args:
        method: `cocoop`, `coop` or `zero-shot`.
        backbone: a name for `cocoop.load_backbone`.
        context: words whose embeddings are the initial context; None: random.
        epochs: passes over the images; None: as in the papers (10; coop 200).
        learning_rate: peak learning rate of SGD; None: as in the papers.
        batch_size: images per step; None: as in the papers (1; coop 32).
        cache_features: encode each image once; False: augment it again in each epoch, as in the papers.
        classnames: dictionary from labels to class names for the prompt; labels that it lacks are used as names.
        precision: data type of the frozen towers.
        device: device to compute on.
        random_state: seed of the initial values and the order of images, a `RandomState` or None.

    Attributes:
        classes_: the labels, sorted.
        history_: one entry per epoch, as in `cocoop.TrainResult`.
        classifier_: the fitted `cocoop.Classifier`; save its `method` with `save_pretrained`.
    """

    # scikit-learn requires that `__init__` stores values unchanged and `fit` checks them.
    def __init__(
        self,
        method: Any = "cocoop",
        backbone: Any = "lite",
        *,
        context: Any = "a photo of a",
        epochs: Any = None,
        learning_rate: Any = None,
        batch_size: Any = None,
        cache_features: Any = True,
        classnames: Any = None,
        precision: Any = "fp32",
        device: Any = "cpu",
        random_state: Any = None,
    ) -> None:
        self.method = method
        self.backbone = backbone
        self.context = context
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.cache_features = cache_features
        self.classnames = classnames
        self.precision = precision
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> CoCoOpClassifier:
        """Train a prompt.

        Args:
            X: paths of images: a list, an array of one dimension, or a table with one column.
            y: their labels.

        Raises:
            ValueError: if X does not contain paths, or y contains fewer than two classes.
            CocoopError: if an image cannot be read, a class name cannot be used in a prompt, or a setting is out of
                range.
        """
        X, y = validate_data(self, _as_column(X), y, dtype=None)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has only one class, {self.classes_[0]!r}; a classifier needs at least two.")
        items = [Item(path, int(label)) for path, label in zip(self._paths(X), labels, strict=True)]
        names = self.classnames or {}
        data = Dataset(tuple(str(names.get(c, c)) for c in self.classes_.tolist()), tuple(items), (), (), Path(), "X")
        # An integer is used unchanged, so that `cocoop.fit` gives the same prompt with the same seed.
        state = self.random_state
        seed = state if isinstance(state, int) else int(check_random_state(state).randint(2**31))
        method = self._new_method(data.classnames, seed)
        self.history_ = fit(method, data, self._config(seed)).history if method.learned() else []
        self.classifier_ = Classifier(method)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each image.

        Raises:
            NotFittedError: if `fit` was not called.
            ValueError: if X does not contain paths.
            DataError: if an image cannot be read.
        """
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of `classes_`, one row per image; raises the errors of `predict`."""
        check_is_fitted(self)
        return self.classifier_.predict_proba(self._paths(validate_data(self, _as_column(X), dtype=None, reset=False)))

    def __sklearn_tags__(self) -> Any:
        """Declare that the input is strings, in one dimension or as a column."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        return tags

    def _new_method(self, classnames: Sequence[str], seed: int) -> Method:
        if self.method not in METHODS:
            raise ConfigError(f"`method` is {self.method!r}; it must be one of {', '.join(METHODS)}.")
        settings = {} if self.method == ZeroShot.key else {"context": self.context, "seed": seed}
        backbone = _backbone(self.backbone, precision=self.precision, device=self.device)
        return METHODS[self.method](backbone, classnames, **settings)

    def _config(self, seed: int) -> TrainConfig:
        return paper_config(
            self.method,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            cache_features=self.cache_features,
            seed=seed,
            # scikit-learn itself may run in several processes.
            workers=0,
            skip_unreadable=False,
        )

    def _paths(self, X: np.ndarray) -> list[str]:
        if X.shape[1] != 1:
            raise ValueError(f"X has {X.shape[1]} columns; give one path of an image for each label.")
        for row, entry in enumerate(X[:, 0]):
            if not isinstance(entry, str | os.PathLike):
                raise ValueError(f"X[{row}] is {entry!r}; it must be the path of an image.")
        return [os.fspath(entry) for entry in X[:, 0]]


def _as_column(X: Any) -> Any:
    """Return a list of paths as a table with one column, the shape that scikit-learn expects."""
    table = X if hasattr(X, "ndim") else np.asarray(X)
    return np.asarray(table).reshape(-1, 1) if table.ndim == 1 else table
