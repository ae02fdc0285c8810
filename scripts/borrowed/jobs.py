"""Jobs that are timed on several backends of joblib: many small calls, and what scikit-learn does with ``n_jobs``."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed

if TYPE_CHECKING:
    from collections.abc import Callable

JOBS = 2


def spin(seconds: float) -> float:
    """Compute for so long."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return seconds


def small(count: int, seconds: float = 0.0) -> object:
    """Make so many calls, of so much work each."""
    return Parallel(JOBS)(delayed(spin)(seconds) for _ in range(count))


def short(calls: int) -> None:
    """Call ``Parallel`` so often, for four trivial calls each."""
    for _ in range(calls):
        Parallel(JOBS)(delayed(abs)(number) for number in range(4))


def arrays(count: int, floats: int) -> object:
    """Hand the same array to so many calls."""
    import numpy as np

    array = np.ones(floats)
    return Parallel(JOBS)(delayed(np.sum)(array) for _ in range(count))


def generated(count: int) -> int:
    """Take results one after the other as they come."""
    results = Parallel(JOBS, return_as="generator_unordered")(delayed(abs)(number) for number in range(count))
    return sum(1 for _ in results)


SMALL: dict[str, tuple[int, Callable[[], object]]] = {
    "20,000 calls of nothing": (20000, functools.partial(small, 20000)),
    "5,000 calls of 100 µs": (5000, functools.partial(small, 5000, 0.0001)),
    "1,000 calls of 1 ms": (1000, functools.partial(small, 1000, 0.001)),
    "200 calls of 10 ms": (200, functools.partial(small, 200, 0.01)),
    "20 times 4 calls of nothing": (20, functools.partial(short, 20)),
    "5,000 results as they come": (5000, functools.partial(generated, 5000)),
    "500 sums of one array, 8 MB": (500, functools.partial(arrays, 500, 1_000_000)),
    "500 sums of one array, 400 kB": (500, functools.partial(arrays, 500, 50_000)),
}
"""What each is called: how many things it does, and what does them."""


def learning() -> dict[str, Callable[[], object]]:
    """Return what scikit-learn is timed at, by name."""
    from sklearn.datasets import make_classification
    from sklearn.ensemble import BaggingClassifier, ExtraTreesClassifier, RandomForestClassifier
    from sklearn.inspection import permutation_importance
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import SVC
    from sklearn.tree import DecisionTreeClassifier

    x, y = make_classification(2000, 20, n_informative=8, n_classes=3, random_state=0)
    large_x, large_y = make_classification(20000, 20, n_informative=8, random_state=0)
    tree = DecisionTreeClassifier(random_state=0).fit(x, y)
    grid: dict[str, Any] = {"C": [0.01, 0.1, 1.0, 10.0]}
    forest = RandomForestClassifier(50, n_jobs=JOBS, random_state=0).fit(x, y)
    return {
        "RandomForestClassifier.fit": lambda: RandomForestClassifier(50, n_jobs=JOBS, random_state=0).fit(x, y),
        "RandomForestClassifier.predict": lambda: forest.predict(x),
        "ExtraTreesClassifier.fit": lambda: ExtraTreesClassifier(50, n_jobs=JOBS, random_state=0).fit(x, y),
        "BaggingClassifier.fit": lambda: BaggingClassifier(n_estimators=20, n_jobs=JOBS, random_state=0).fit(x, y),
        "GridSearchCV.fit": lambda: GridSearchCV(LogisticRegression(), grid, n_jobs=JOBS).fit(x, y),
        "GridSearchCV.fit, 3.2 MB": lambda: GridSearchCV(LogisticRegression(), grid, n_jobs=JOBS).fit(large_x, large_y),
        "RandomizedSearchCV.fit": lambda: RandomizedSearchCV(
            DecisionTreeClassifier(), {"max_depth": [2, 4, 8, 16]}, n_iter=4, n_jobs=JOBS, random_state=0
        ).fit(x, y),
        "cross_val_score": lambda: cross_val_score(SVC(), x, y, cv=6, n_jobs=JOBS),
        "OneVsRestClassifier.fit": lambda: OneVsRestClassifier(SVC(), n_jobs=JOBS).fit(x, y),
        "permutation_importance": lambda: permutation_importance(tree, x, y, n_jobs=JOBS, random_state=0),
    }
