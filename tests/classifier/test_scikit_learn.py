"""scikit-learn's own checks of an estimator.

They feed tables of numbers, so a thin adapter draws every row as an image: a bar for each number. It checks the table
as every scikit-learn estimator does and hands the images to the classifier, whose conventions are then tested.
"""

import numpy as np
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from classifier_kit import SIZE, tiny_start
from metacontrast import FewShotClassifier


class OfTables(FewShotClassifier):
    """Rows of numbers as images."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string, tags.no_validation = True, False, False
        return tags

    def fit(self, X, y=None):
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        return super().fit(drawn(X), y)

    def partial_fit(self, X, y=None, classes=None):
        if not hasattr(self, "state_"):
            return self.fit(X, y)
        X, y = validate_data(self, X, y, reset=False)
        return super().partial_fit(drawn(X), y)

    def answer(self, X):
        check_is_fitted(self)
        return super().answer(drawn(validate_data(self, X, reset=False)))

    def score(self, X, y=None, sample_weight=None):
        return float(np.average(self.predict(X) == y, weights=sample_weight))


def drawn(table: np.ndarray) -> np.ndarray:
    """Each number squashed to 0 to 1 and drawn as a bar; the first ones, as many as fit."""
    squashed = (1 + np.tanh(table.astype(np.float64) / 4)) / 2
    columns = np.resize(np.arange(min(table.shape[1], SIZE)), SIZE)
    heights = np.linspace(0, 1, SIZE)[:, None]
    return np.clip((squashed[:, None, columns] - heights) * 4 + 0.5, 0, 1)


@parametrize_with_checks([OfTables(tiny_start(), folds=0)])
def test_check(estimator, check):
    check(estimator)
