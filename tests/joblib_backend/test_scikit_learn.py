"""scikit-learn over the backend: every estimator and search gives what it gives without it."""

import functools
import warnings

import numpy as np
import pytest

import mpengine.joblib

WORKERS = 2


@pytest.fixture(scope="module")
def problem():
    from sklearn.datasets import make_classification

    return make_classification(150, 10, n_informative=5, n_classes=3, random_state=0)


def probabilities(model, x, y):
    return model.fit(x, y).predict_proba(x)


def search(model, x, y):
    model.fit(x, y)
    return model.cv_results_["mean_test_score"], model.best_score_, model.predict(x)


def forest(n_jobs):
    from sklearn.ensemble import RandomForestClassifier

    return functools.partial(probabilities, RandomForestClassifier(12, n_jobs=n_jobs, random_state=0))


def extra_trees(n_jobs):
    from sklearn.ensemble import ExtraTreesClassifier

    return functools.partial(probabilities, ExtraTreesClassifier(12, n_jobs=n_jobs, random_state=0))


def bagging(n_jobs):
    from sklearn.ensemble import BaggingClassifier

    return functools.partial(probabilities, BaggingClassifier(n_estimators=8, n_jobs=n_jobs, random_state=0))


def voting(n_jobs):
    from sklearn.ensemble import VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    members = [("line", LogisticRegression()), ("bayes", GaussianNB())]
    return functools.partial(probabilities, VotingClassifier(members, voting="soft", n_jobs=n_jobs))


def stacking(n_jobs):
    from sklearn.ensemble import StackingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.tree import DecisionTreeClassifier

    members = [("tree", DecisionTreeClassifier(random_state=0)), ("bayes", GaussianNB())]
    return functools.partial(probabilities, StackingClassifier(members, LogisticRegression(), n_jobs=n_jobs))


def one_against_the_rest(n_jobs):
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    return functools.partial(probabilities, OneVsRestClassifier(LogisticRegression(), n_jobs=n_jobs))


def isolation_forest(n_jobs):
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(n_estimators=12, n_jobs=n_jobs, random_state=0)
    return lambda x, y: model.fit(x, y).score_samples(x)


def grid_search(n_jobs):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    return functools.partial(search, GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=3, n_jobs=n_jobs))


def random_search(n_jobs):
    from sklearn.model_selection import RandomizedSearchCV
    from sklearn.tree import DecisionTreeClassifier

    depths = {"max_depth": [1, 2, 3, 5]}
    tree = DecisionTreeClassifier(random_state=0)
    return functools.partial(search, RandomizedSearchCV(tree, depths, n_iter=3, cv=3, n_jobs=n_jobs, random_state=0))


def halving_search(n_jobs):
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    depths = {"max_depth": [1, 2, 3, 5]}
    tree = DecisionTreeClassifier(random_state=0)
    return functools.partial(search, HalvingGridSearchCV(tree, depths, cv=3, n_jobs=n_jobs, random_state=0))


def cross_validation(n_jobs):
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    return lambda x, y: cross_val_score(SVC(), x, y, cv=4, n_jobs=n_jobs)


def learning_curve(n_jobs):
    from sklearn.model_selection import learning_curve as curve
    from sklearn.naive_bayes import GaussianNB

    return lambda x, y: curve(GaussianNB(), x, y, cv=3, n_jobs=n_jobs)


def importances(n_jobs):
    from sklearn.inspection import permutation_importance
    from sklearn.tree import DecisionTreeClassifier

    def ask(x, y):
        tree = DecisionTreeClassifier(random_state=0).fit(x, y)
        return permutation_importance(tree, x, y, n_jobs=n_jobs, random_state=0)["importances"]

    return ask


def union_of_features(n_jobs):
    from sklearn.decomposition import PCA
    from sklearn.pipeline import FeatureUnion
    from sklearn.preprocessing import StandardScaler

    union = FeatureUnion([("parts", PCA(3, svd_solver="full")), ("scaled", StandardScaler())], n_jobs=n_jobs)
    return union.fit_transform


def columns(n_jobs):
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    both = ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", MinMaxScaler(), [2, 3])], n_jobs=n_jobs)
    return both.fit_transform


def neighbours(n_jobs):
    from sklearn.neighbors import KNeighborsClassifier

    return functools.partial(probabilities, KNeighborsClassifier(algorithm="kd_tree", n_jobs=n_jobs))


def rows_of_gradient_descent(n_jobs):
    from sklearn.linear_model import SGDClassifier

    return lambda x, y: SGDClassifier(n_jobs=n_jobs, max_iter=20, tol=None, random_state=0).fit(x, y).coef_


MODELS = [
    forest, extra_trees, bagging, voting, stacking, one_against_the_rest, isolation_forest, grid_search, random_search,
    halving_search, cross_validation, learning_curve, importances, union_of_features, columns, neighbours,
    rows_of_gradient_descent,
]  # fmt: skip


@pytest.mark.slow
def test_every_estimator_and_search_gives_what_it_gives_without_workers(problem, backend, monkeypatch):
    calls = []
    submit = mpengine.joblib.MpengineBackend.submit
    monkeypatch.setattr(
        mpengine.joblib.MpengineBackend,
        "submit",
        lambda self, *args, **more: calls.append(1) or submit(self, *args, **more),
    )
    different, unused = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's own, of small data
        for model in MODELS:
            expected = model(1)(*problem)
            calls.clear()
            found = model(WORKERS)(*problem)
            if not all(map(np.array_equal, _flat(found), _flat(expected))):
                different.append(model.__name__)
            if not calls:
                unused.append(model.__name__)

    assert different == []
    assert unused == ["rows_of_gradient_descent"]  # asks for threads, and gets them


def _flat(found):
    return found if isinstance(found, tuple) else (found,)
