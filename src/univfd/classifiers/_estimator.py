"""scikit-learn's estimator contract without importing scikit-learn.

Deciding about an image must not cost the import of scikit-learn. So this base class keeps the contract itself
(parameters, cloning, tags) and hands over to scikit-learn's own validation only when something is fitted, or when
the input is not already what the line produces: a finite float32 `(N, D)` array.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray


class Estimator:
    """Parameters by `__init__`'s signature, as scikit-learn's `BaseEstimator`; a binary classifier."""

    classes_: NDArray[Any]
    n_features_in_: int
    _metadata_request: Any

    @classmethod
    def _names(cls) -> list[str]:
        return [p for p in inspect.signature(cls.__init__).parameters if p != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Constructor parameters. `deep` has no effect: no parameter is an estimator."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Self:
        """Set constructor parameters.

        Raises:
            ValueError: an unknown name.
        """
        for name, value in params.items():
            if name not in self._names():
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has: {', '.join(self._names())}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_params().items())})"

    def __sklearn_tags__(self) -> Any:
        """Tags of a binary classifier."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(multi_class=False),
            input_tags=InputTags(),
        )

    def __sklearn_is_fitted__(self) -> bool:
        """Whether `fit` or `from_state` has run."""
        return hasattr(self, "classes_")

    def get_metadata_routing(self) -> Any:
        """What `fit` and `score` take beside X and y, and whether it was asked for; see `set_fit_request`."""
        from sklearn.utils.metadata_routing import MetadataRequest

        if hasattr(self, "_metadata_request"):  # scikit-learn's own name: `clone` copies it
            return self._metadata_request
        made = MetadataRequest(owner=self)
        for method in ("fit", "score"):
            for name in list(inspect.signature(getattr(self, method)).parameters)[2:]:
                getattr(made, method).add_request(param=name, alias=None)
        return made

    def set_fit_request(self, **wanted: bool | str | None) -> Self:
        """Ask for metadata in `fit` (`sample_weight=True`, `groups=True`), where scikit-learn routes them."""
        return self._request("fit", wanted)

    def set_score_request(self, **wanted: bool | str | None) -> Self:
        """Ask for metadata in `score` (`sample_weight=True`), where scikit-learn routes them."""
        return self._request("score", wanted)

    def _request(self, method: str, wanted: Mapping[str, bool | str | None]) -> Self:
        routing = self.get_metadata_routing()
        known = getattr(routing, method).requests
        for name, alias in wanted.items():
            if name not in known:
                raise TypeError(f"{type(self).__name__}.{method} takes {', '.join(known) or 'nothing'}; not {name!r}")
            getattr(routing, method).add_request(param=name, alias=alias)
        self._metadata_request = routing
        return self

    @property
    def _estimator_type(self) -> str:
        return "classifier"

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Scores `(N,)`: higher = `classes_[1]` (fake)."""
        raise NotImplementedError

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of each row: `classes_[1]` (fake) where the score is above 0.

        Args:
            X: `(N, D)`.

        Returns:
            `(N,)` values of `classes_`.
        """
        scores = self.decision_function(X)
        return np.asarray(self.classes_[(scores > 0).astype(int)])

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of `predict`."""
        return float(np.average(self.predict(X) == np.asarray(y), weights=sample_weight))

    def _check_fit(self, X: Any, y: Any) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Validate a training set; sets `classes_` and `n_features_in_`; gives X and y as 0/1."""
        from sklearn.utils.multiclass import check_classification_targets, type_of_target
        from sklearn.utils.validation import validate_data

        X, y = validate_data(self, X, y, dtype=np.float32, order="C")
        check_classification_targets(y)
        if type_of_target(y, input_name="y") == "multiclass":
            raise ValueError("Only binary classification is supported. The type of the target is multiclass.")
        self.classes_, coded = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs both classes, real and fake; got only one class")
        if self.classes_.tolist() == ["fake", "real"]:
            warnings.warn(
                "the classes are the words 'fake' and 'real', and scikit-learn sorts them: a higher score means real. "
                "Give 0 and 1 (1: fake)",
                UserWarning,
                stacklevel=3,
            )
        return X, coded

    def _check(self, X: Any) -> NDArray[np.float32]:
        """Validate what is to be scored."""
        if not self.__sklearn_is_fitted__():
            self._raise_not_fitted()
        ready = type(X) is np.ndarray and X.dtype == np.float32 and X.ndim == 2 and len(X) > 0
        ready = ready and not hasattr(self, "feature_names_in_") and X.shape[1] == self.n_features_in_
        if ready and np.isfinite(X).all():
            return np.ascontiguousarray(X)
        from sklearn.utils.validation import validate_data

        checked: NDArray[np.float32] = validate_data(self, X, dtype=np.float32, order="C", reset=False)
        return checked

    def _raise_not_fitted(self) -> NoReturn:
        from sklearn.exceptions import NotFittedError

        raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call fit first")
