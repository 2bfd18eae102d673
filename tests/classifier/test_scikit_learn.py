"""scikit-learn's own checks of an estimator.

They feed tables of numbers, so every row is drawn as an image: a bar for each number. `ABOUT_TABLES` lists the checks
that the classifier then does not pass, and why it should not. `OfTables` checks its tables as scikit-learn's
estimators do, and passes these too: in all else that they ask for the classifier follows the conventions.
"""

import numpy as np
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from classifier_kit import SIZE, tiny_start
from metacontrast import FewShotClassifier

NO_COLUMNS = "images have no columns to count: of any size, they are resized"
NO_DTYPE = "features are float32, whatever kind the images are of"
NO_TABLE = "wants the complaint about a table that scikit-learn's validate_data makes; images are no table"
ABOUT_TABLES = {
    "check_n_features_in": NO_COLUMNS,
    "check_n_features_in_after_fitting": NO_COLUMNS,
    "check_estimators_partial_fit_n_features": NO_COLUMNS,
    "check_classifiers_train": NO_COLUMNS,
    "check_complex_data": NO_TABLE,
    "check_estimators_empty_data_messages": NO_TABLE,
    "check_estimators_nan_inf": NO_TABLE,
    "check_estimator_sparse_tag": NO_TABLE,
    "check_estimator_sparse_array": NO_TABLE,
    "check_estimator_sparse_matrix": NO_TABLE,
    "check_fit1d": NO_TABLE,
    "check_fit2d_predict1d": NO_TABLE,
    "check_transformer_general": NO_COLUMNS,
    "check_transformer_preserve_dtypes": NO_DTYPE,
    "check_requires_y_none": "wants scikit-learn's words: a folder needs no labels, else the message says so",
    "check_supervised_y_2d": "a column of labels is an error here, there only a warning",
    "check_classifiers_regression_target": "numbers with a fraction are labels too: any hashable kind is",
}


class Drawn(FewShotClassifier):
    """Rows of numbers as images."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string, tags.no_validation = True, False, False
        return tags

    def fit(self, X, y=None):
        return super().fit(drawn(X), y)

    def partial_fit(self, X, y=None, classes=None):
        return super().partial_fit(drawn(X), y)

    def answer(self, X):
        return super().answer(drawn(X))

    def score(self, X, y=None, sample_weight=None):
        return super().score(drawn(X), y, sample_weight)

    def transform(self, X):
        return super().transform(drawn(X))


class OfTables(Drawn):
    """The same after scikit-learn's checks of a table."""

    def fit(self, X, y=None):
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        return super().fit(X, y)

    def partial_fit(self, X, y=None, classes=None):
        if not hasattr(self, "state_"):
            return self.fit(X, y)
        X, y = validate_data(self, X, y, reset=False)
        return super().partial_fit(X, y)

    def answer(self, X):
        check_is_fitted(self)
        return super().answer(validate_data(self, X, reset=False))

    def transform(self, X):
        check_is_fitted(self)
        return super().transform(validate_data(self, X, reset=False))

    def score(self, X, y=None, sample_weight=None):
        check_is_fitted(self)
        return super().score(validate_data(self, X, reset=False), y, sample_weight)


def drawn(table) -> np.ndarray:
    """Each number squashed to 0 to 1 and drawn as a bar; the first ones, as many as fit."""
    squashed = (1 + np.tanh(np.asarray(table).astype(np.float64) / 4)) / 2
    columns = np.resize(np.arange(min(squashed.shape[1], SIZE)), SIZE)
    heights = np.linspace(0, 1, SIZE)[:, None]
    return np.clip((squashed[:, None, columns] - heights) * 4 + 0.5, 0, 1)


@parametrize_with_checks([Drawn(tiny_start(), folds=0)], expected_failed_checks=lambda estimator: ABOUT_TABLES)
def test_the_classifier_passes(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [OfTables(tiny_start(), folds=0)],
    expected_failed_checks=lambda estimator: {"check_transformer_preserve_dtypes": NO_DTYPE},
)
def test_with_tables_checked_it_passes_all(estimator, check):
    check(estimator)
