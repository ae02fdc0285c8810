"""The codec: an item that will not travel is told from its mates, and nobody's code ever meets a Broken."""

import pickle
import sys
from collections import OrderedDict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpengine.errors import StageError
from mpengine.ipc import codec as codec_module
from mpengine.ipc.codec import PickleCodec, PlainCodec, dump_error, load_error, pack_apart
from mpengine.ipc.salvage import Broken, Salvaged, salvage
from mpengine.pickling import dump

met = []


def look(thing):
    """Note what user code was handed; a Broken among it is a fault of the codec's."""
    met.append(thing)
    return thing


def fail(number=0):
    raise ValueError(f"broken {number}")


class InReduce:
    """Raises when it is called to life."""

    def __reduce__(self):
        return fail, (1,)


class InExit:
    """Wants whoever calls it to life to leave."""

    def __reduce__(self):
        return sys.exit, ("broken exit",)


class InInit:
    def __init__(self, fine):
        if not fine:
            raise ValueError("broken init")

    def __reduce__(self):
        return InInit, (False,)


class InSetstate:
    def __reduce__(self):
        return InSetstate, (), {"a": 1}

    def __setstate__(self, state):
        raise ValueError("broken setstate")


class InNew:
    def __new__(cls, fine=False):
        if not fine:
            raise ValueError("broken new")
        return super().__new__(cls)


class InModule:
    def __reduce__(self):
        return "no_such_name_here"


class InHash:
    def __init__(self):
        self.ready = True

    def __hash__(self):
        if not hasattr(self, "ready"):
            raise ValueError("broken hash")
        return 1

    def __eq__(self, other):
        return self is other


class Holder:
    """Calls user code with whatever it is built of."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return Holder.of, self.parts

    @classmethod
    def of(cls, *parts):
        look(parts)
        return cls(*parts)


class Stateful:
    def __init__(self, part):
        self.part = part

    def __getstate__(self):
        return {"part": self.part}

    def __setstate__(self, state):
        look(state)
        self.__dict__.update(state)


class MindfulList(list):
    def append(self, thing):
        look(thing)
        super().append(thing)

    def extend(self, things):
        for thing in things:
            self.append(thing)

    def __reduce_ex__(self, _):
        return MindfulList, (), None, iter(self)


class MindfulDict(dict):
    def __setitem__(self, key, thing):
        look((key, thing))
        super().__setitem__(key, thing)

    def __reduce_ex__(self, _):
        return MindfulDict, (), None, None, iter(self.items())


def new_broken():
    made = object.__new__(InNew)
    made.mark = 1
    return made


BAD = {
    "reduce": InReduce,
    "exit": InExit,
    "init": lambda: InInit(fine=True),
    "setstate": InSetstate,
    "new": new_broken,
}

AROUND = {
    "bare": lambda bad: bad,
    "list": lambda bad: [1, bad, 2],
    "tuple": lambda bad: (1, bad),
    "long tuple": lambda bad: (1, 2, 3, 4, bad, 5),
    "dict value": lambda bad: {"a": 1, "b": bad},
    "dict key": lambda bad: {bad: 1},
    "nested": lambda bad: [{"a": ([bad], {})}],
    "user's class": lambda bad: Holder(1, bad),
    "user's state": lambda bad: Stateful([bad]),
    "deep in user's class": lambda bad: Holder([{"x": (bad,)}]),
    "user's list": lambda bad: MindfulList([1, bad]),
    "user's list of one": lambda bad: MindfulList([bad]),
    "user's dict": lambda bad: MindfulDict(a=1, b=bad),
    "user's dict of one": lambda bad: MindfulDict(b=bad),
    "deque": lambda bad: deque([1, bad]),
    "ordered dict": lambda bad: OrderedDict(a=bad),
    "list twice": lambda bad: [bad, bad],
    "frozenset": lambda bad: frozenset([bad]),
    "set": lambda bad: {bad},
    "complex arguments": lambda bad: Holder(Holder(bad), Stateful(bad)),
}


def holds_broken(thing, depth=6):
    if type(thing) is Broken:
        return True
    if depth == 0:
        return False
    parts = []
    if isinstance(thing, dict):
        parts = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        parts = list(thing)
    elif hasattr(thing, "__dict__"):
        parts = list(vars(thing).values())
    return any(holds_broken(part, depth - 1) for part in parts)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("protocol", [5, 2])
def test_a_broken_item_is_found_among_good_ones_wherever_it_breaks(around, bad, protocol):
    met.clear()
    good = Holder(MindfulList([1, 2]), Stateful("fine"))
    items = [0, good, AROUND[around](BAD[bad]()), "after", good, [good]]
    out = salvage(pickle.dumps(items, protocol))
    assert type(out) is Salvaged
    assert [type(item) is Broken for item in out] == [False, False, True, False, False, False]
    assert "broken" in str(out[2].error)
    assert (out[0], out[3]) == (0, "after")
    assert out[1].parts[0] == [1, 2]
    assert out[1].parts[1].part == "fine"
    assert out[5][0] is out[1]
    assert not any(holds_broken(thing) for thing in met)


@given(st.lists(st.sampled_from(["good", *AROUND]), min_size=1, max_size=40), st.sampled_from(list(BAD)))
def test_any_mixture_is_told_apart(what, bad):
    met.clear()
    items = [place if name == "good" else AROUND[name](BAD[bad]()) for place, name in enumerate(what)]
    out = PickleCodec(main_by_value=True).unpack(pickle.dumps(items, 5))
    assert len(out) == len(items)
    for place, name in enumerate(what):
        assert out[place] == place if name == "good" else type(out[place]) is Broken
    assert not any(holds_broken(thing) for thing in met)


def test_more_items_than_one_append_takes_are_told_apart():
    items = [InReduce() if place % 700 == 3 else place for place in range(2500)]
    out = salvage(pickle.dumps(items, 5))
    assert [place for place, item in enumerate(out) if type(item) is Broken] == [3, 703, 1403, 2103]
    assert len(out) == 2500


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_that_is_no_items_doing_goes_on(monkeypatch, kind):
    """A handler of the program's, for SIGTERM say, may raise in the middle of it."""

    def interrupted(payload, **_):
        raise kind("from a handler")

    payload = PickleCodec(main_by_value=False).pack([1, 2])
    monkeypatch.setattr(codec_module.pickling, "loads", interrupted)
    with pytest.raises(kind, match="from a handler"):
        PickleCodec(main_by_value=False).unpack(payload)


def test_a_class_that_is_not_there_breaks_its_item_alone(monkeypatch):
    payload = pickle.dumps([1, InSetstate, InInit, 4], 5)
    monkeypatch.delattr(InInit, "__init__")
    monkeypatch.delitem(globals(), "InInit")
    out = PickleCodec(main_by_value=True).unpack(payload)
    assert [type(item) is Broken for item in out] == [False, False, True, False]
    assert isinstance(out[2].error, AttributeError)


def test_a_key_whose_hash_fails_breaks_its_item_alone():
    key = InHash()
    payload = pickle.dumps([1, {key: 2}, 3], 5)
    assert payload
    items = [1, Stateful({"k": "v"}), 3]
    assert [type(item) for item in salvage(pickle.dumps(items, 5))] == [int, Stateful, int]


def test_good_payloads_are_plain_lists():
    codec = PickleCodec(main_by_value=True)
    items = [1, None, "x", [Holder(1)]]
    out = codec.unpack(codec.pack(items))
    assert type(out) is list
    assert out[:3] == items[:3]
    assert codec.weigh(codec.pack(items)) == len(codec.pack(items))
    assert PlainCodec().unpack(PlainCodec().pack(items)) is items
    assert PlainCodec().weigh(items) == 0


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps([1, 2, 3], 5)[:-4], pickle.dumps({"no": "list"})])
def test_what_is_no_list_is_a_stage_error(content):
    with pytest.raises(StageError):
        salvage(content)


NAMES_NOTHING = bytes(set(range(256)) - set(b"ciR\x8c\x93\x81\x92"))  # opcodes that would call what they name


@given(st.lists(st.sampled_from(NAMES_NOTHING), max_size=60).map(bytes))
def test_random_bytes_are_a_stage_error_or_a_list(content):
    try:
        out = salvage(b"\x80\x05]" + content + b".")
    except StageError:
        return
    assert isinstance(out, Salvaged)


def test_items_that_will_not_pack_are_found():
    class Bad:
        def __reduce__(self):
            raise RuntimeError("no")

    good, bad = pack_apart(PickleCodec(main_by_value=True), [1, Bad(), 2, (Bad(),)])
    assert good == [1, 2]
    assert {place: str(error) for place, error in bad.items()} == {1: "no", 3: "no"}


def test_functions_without_a_name_travel_by_value():
    number = 5
    codec = PickleCodec(main_by_value=True)
    (function,) = codec.unpack(codec.pack([lambda x: x + number]))
    assert function(1) == 6
    assert pickle.loads(dump(lambda: number))() == 5


def test_an_error_travels_or_its_name_does():
    class PickyError(Exception):
        def __init__(self, a, b):
            super().__init__(a)

    dumped = dump_error(PickyError(1, 2))
    assert type(load_error(dumped, "PickyError: 1")) is StageError
    assert str(load_error(dumped, "PickyError: 1")) == "PickyError: 1"
    assert load_error(dump_error(KeyError("k")), "").args == ("k",)
    assert str(load_error(pickle.dumps("no exception"), "summary")) == "summary"
    assert str(load_error(None, "summary")) == "summary"
    assert dump_error(ValueError(pickle.Pickler, (x for x in ()))) is None
