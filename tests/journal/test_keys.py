"""An item's key is the same in every process, and differs where items differ."""

import dataclasses
import datetime as dt
import decimal
import enum
import itertools
import os
import subprocess
import sys
import uuid
from fractions import Fraction
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from mpengine import PipelineError
from mpengine.journal.keys import KEY_BYTES, stable_key


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


@dataclasses.dataclass
class Job:
    name: str
    sizes: list


@dataclasses.dataclass
class Other:
    name: str
    sizes: list


DIFFERENT = [
    None, True, False, 0, 1, -1, 2**100, 0.0, -0.0, 1.0, 1j, "", "1", "a", "\udcff", b"", b"a", bytearray(b"a"),
    (), (1,), (1, 2), ((1,), 2), (1, (2,)), ("ab", "c"), ("a", "bc"), [], [1, 2], {1, 2}, frozenset({1, 2}), {}, {1: 2},
    {2: 1}, {"a": [1]}, range(3), range(0, 3, 2), Colour.RED, Colour.GREEN, PurePosixPath("a"), Job("a", [1]),
    Job("a", [2]), Other("a", [1]), dt.date(2020, 1, 2), dt.datetime(2020, 1, 2, tzinfo=dt.UTC),
    dt.time(1), dt.timedelta(1), decimal.Decimal(1), decimal.Decimal("1.0"), Fraction(1, 3),
    uuid.UUID(int=1), np.arange(4), np.arange(4.0), np.arange(4).reshape(2, 2), np.int64(3),
]  # fmt: skip


def test_items_that_differ_have_keys_that_differ():
    keys = [stable_key(item) for item in DIFFERENT]

    assert all(len(key) == KEY_BYTES for key in keys)
    for (one, key), (other, other_key) in itertools.combinations(zip(DIFFERENT, keys, strict=True), 2):
        assert key != other_key, (one, other)


def test_equal_items_have_one_key_however_they_were_made():
    shared = "part" * 3
    assert stable_key([shared, shared]) == stable_key(["part" * 3, "".join(["part"] * 3)])
    assert stable_key({"a": 1, "b": 2}) == stable_key({"b": 2, "a": 1})
    assert stable_key({f"word {number}" for number in range(50)}) == stable_key(
        {f"word {number}" for number in reversed(range(50))}
    )
    assert stable_key(np.arange(9)[::2]) == stable_key(np.array([0, 2, 4, 6, 8]))


def test_a_key_is_the_same_in_another_process_with_another_hash_seed():
    program = "from mpengine.journal.keys import stable_key; print(stable_key(({'a', 'b', 'c'}, {'x': 1.5})).hex())"
    told = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert told == {stable_key(({"c", "b", "a"}, {"x": 1.5})).hex() + "\n"}


def test_the_form_of_keys_is_never_changed():  # a journal of yesterday would have everything run again
    assert stable_key("line").hex() == "43cc4a7dede753ffb5b2de726ae131ae"
    assert stable_key(7).hex() == "a140891bc3be51f138d3236662fd0665"
    assert stable_key((1, [2.5, None], {"k": {b"v"}}, Path("a/b"))).hex() == "2834cb4ef50c2f4da4fc929296545afe"


class Plain:
    pass


@pytest.mark.parametrize("item", [Plain(), [1, Plain()], {"a": len}, object, np.array([None]), type("S", (str,), {})()])
def test_what_has_no_key_that_stays_the_same_is_refused_with_what_to_do(item):
    with pytest.raises(PipelineError, match="key= function"):
        stable_key(item)


def test_an_item_that_holds_itself_is_refused():
    item = []
    item.append(item)
    with pytest.raises(PipelineError, match="holds itself"):
        stable_key(item)
