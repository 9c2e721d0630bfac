"""Prompt learning as a scikit-learn estimator, for its pipelines, cross-validation and searches.

from cocoop.sklearn import CoCoOpClassifier

scores = cross_val_score(CoCoOpClassifier(epochs=5), paths, labels)
"""

# ruff: noqa: N803 - X is scikit-learn's name

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

# A search fits many times on the same frozen towers.
_backbone = lru_cache(maxsize=1)(load_backbone)


class CoCoOpClassifier(ClassifierMixin, BaseEstimator):
    """Learns a prompt from photos, given as paths, and their classes.

    Args:
        method: `cocoop`, `coop` or `zero-shot`.
        backbone: a name, as `cocoop.load_backbone` takes it.
        context: words to begin with; None: random.
        epochs: passes over the photos; None: the papers' (10; coop 200).
        learning_rate: peak rate of SGD; None: the papers'.
        batch_size: photos a step; None: the papers' (1; coop 32).
        cache_features: encode every photo once; False: augmented anew in each epoch, as in the papers.
        classnames: what labels are called in the prompt, by label, where that is not the label itself.
        precision: number type of the frozen towers.
        device: where to compute.
        random_state: of the start values and the order of photos: a seed, a `RandomState` or None.

    Attributes:
        classes_: the labels, sorted.
        history_: one entry an epoch, as in `cocoop.TrainResult`.
        classifier_: the `cocoop.Classifier` that was learned; it may be saved by its method's `save_pretrained`.
    """

    # Any value is stored as it is, and checked in `fit`: scikit-learn relies on that.
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
        """Learn a prompt.

        Args:
            X: paths of photos: a list, an array of one dimension, or a table with one column.
            y: their labels.

        Raises:
            ValueError: if X is no list of paths, or y no list of two classes or more.
            CocoopError: for photos that cannot be read, names that cannot be made into prompts, settings out of range.
        """
        X, y = validate_data(self, _as_column(X), y, dtype=None)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has only one class, {self.classes_[0]!r}; a classifier needs at least two.")
        items = [Item(path, int(label)) for path, label in zip(self._paths(X), labels, strict=True)]
        names = self.classnames or {}
        data = Dataset(tuple(str(names.get(c, c)) for c in self.classes_.tolist()), tuple(items), (), (), Path(), "X")
        # A whole number is the seed itself, so that the command line learns the same with it.
        state = self.random_state
        seed = state if isinstance(state, int) else int(check_random_state(state).randint(2**31))
        learner = self._new_method(data.classnames, seed)
        self.history_ = fit(learner, data, self._config(seed)).history if learner.learned() else []
        self.classifier_ = Classifier(learner)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each photo.

        Raises:
            NotFittedError: before `fit`.
            ValueError: if X is no list of paths.
            DataError: for photos that cannot be read.
        """
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of `classes_`, one row a photo; raises as `predict` does."""
        check_is_fitted(self)
        return self.classifier_.predict_proba(self._paths(validate_data(self, _as_column(X), dtype=None, reset=False)))

    def __sklearn_tags__(self) -> Any:
        """Input is strings, in one dimension or as a column."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        return tags

    def _new_method(self, classnames: Sequence[str], seed: int) -> Method:
        if self.method not in METHODS:
            raise ConfigError(f"There is no method {self.method!r}; choose among {', '.join(METHODS)}.")
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
            # Nested workers would be many where scikit-learn itself runs in several processes.
            workers=0,
            skip_unreadable=False,
        )

    def _paths(self, X: np.ndarray) -> list[str]:
        """The paths in a table of one column.

        Raises:
            ValueError: if it has more columns, or something else is in it.
        """
        if X.shape[1] != 1:
            raise ValueError(f"X has {X.shape[1]} columns; give one path of a photo for each label.")
        for place, entry in enumerate(X[:, 0]):
            if not isinstance(entry, str | os.PathLike):
                raise ValueError(f"X[{place}] is {entry!r}; it must be the path of a photo.")
        return [os.fspath(entry) for entry in X[:, 0]]


def _as_column(X: Any) -> Any:
    """A list of paths as a table with one column, as scikit-learn wants its input."""
    table = X if hasattr(X, "ndim") else np.asarray(X)
    return np.asarray(table).reshape(-1, 1) if table.ndim == 1 else table
