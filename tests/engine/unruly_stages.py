"""Things of which every question is refused; picklable by name, and light, since every worker imports this."""

from dataclasses import dataclass


def refuse(what):
    raise RuntimeError(f"asked for its {what}")


class Refusing:
    """Answers nothing that Python may ask of it, but travels."""

    def __init__(self, number=0):
        self.number = number

    def __reduce__(self):
        return type(self), (self.number,)

    def __eq__(self, other):
        refuse("eq")

    def __hash__(self):
        return refuse("hash")

    def __repr__(self):
        refuse("repr")

    def __str__(self):
        return refuse("str")

    def __bool__(self):
        return refuse("bool")

    def __len__(self):
        return refuse("len")

    def __iter__(self):
        refuse("iter")

    def __getattr__(self, name):
        refuse(name)


class RefusingToGo(Refusing):
    def __del__(self):
        refuse("del")


class RefusingError(Refusing, Exception):
    """An exception that answers nothing."""

    def __init__(self, number=0):
        Exception.__init__(self, number)
        Refusing.__init__(self, number)


class UntouchableError(Exception):
    """Nothing may be set in it."""

    def __setattr__(self, name, value):
        refuse(name)


@dataclass(frozen=True)
class FrozenError(Exception):
    """Frozen, and travels all the same."""

    code: int

    def __reduce__(self):
        return FrozenError, (self.code,)


@dataclass(frozen=True)
class FrozenForGoodError(Exception):
    """Frozen, and for that does not come back from its pickle."""

    code: int


class FalseNameError(Exception):
    """Says that it is something else."""

    @property
    def __class__(self):
        refuse("class")


class NotAnError:
    """What comes back of an exception may be anything."""

    @property
    def __class__(self):
        refuse("class")


class ChangelingError(Exception):
    def __reduce__(self):
        return NotAnError, ()


class RefusingStage(Refusing):
    """A callable of which nothing but the call may be asked."""

    def __getattr__(self, name):
        raise AttributeError(name)  # as ``hasattr`` wants it: it asks callables this and that

    def __call__(self, x):
        return 2 * x


class RefusingStageWithState(RefusingStage):
    def __call__(self, x, state):
        state.update(calls=state.get("calls", 0) + 1)
        return x + bool(state.get("calls"))


def open_up(x):
    return x.number
