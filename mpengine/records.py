"""Records: the part of ``dataclasses`` that this package uses, made so that importing a class costs next to nothing.

The standard library writes and compiles up to eight methods for every class while its module is imported, and imports
``inspect`` for that.  With a hundred classes this was a third of the time to the first result, in the parent, in the
fork server and in fresh workers alike.  Here all classes share their methods, and ``__init__`` is compiled when it has
been called a few times, which for most classes never happens in one process.

To everybody else these are dataclasses: to type checkers, ``dataclasses.fields``, ``replace`` and ``asdict``,
``inspect.signature`` and ``pickle``.
"""

from __future__ import annotations

import reprlib
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import dataclass, field, fields, replace
    from typing import Any

__all__ = ["dataclass", "field", "fields", "replace"]


class _Missing:
    """The type of the default that is none."""

    def __repr__(self) -> str:
        return "MISSING"


_MISSING = _Missing()
_FEW = 4
"""So many instances are made without a compiled ``__init__``, which costs as much as fifty of them."""


class _Options:
    """What a class was decorated with: the options of ``dataclasses.dataclass`` that are known here."""

    __slots__ = ("eq", "frozen", "kw_only", "repr", "slots")

    def __init__(
        self,
        *,
        frozen: bool = False,
        slots: bool = False,
        eq: bool = True,
        repr: bool = True,  # noqa: A002 - the standard library's name
        kw_only: bool = False,
    ) -> None:
        self.frozen = frozen
        self.slots = slots
        self.eq = eq
        self.repr = repr
        self.kw_only = kw_only


class _Field:
    """A field, under the names that ``dataclasses.Field`` has."""

    __slots__ = ("compare", "default", "default_factory", "init", "kw_only", "name", "repr", "type")

    def __init__(
        self,
        *,
        default: Any = _MISSING,
        default_factory: Any = _MISSING,
        init: bool = True,
        repr: bool = True,  # noqa: A002 - the standard library's name
        compare: bool = True,
        kw_only: bool = False,
    ) -> None:
        self.name = ""
        self.type: Any = None
        self.default = default
        self.default_factory = default_factory
        self.init = init
        self.repr = repr
        self.compare = compare
        self.kw_only = kw_only


def _dataclass(cls: type[Any] | None = None, /, **options: bool) -> Any:
    return (lambda bare: _made(bare, _Options(**options))) if cls is None else _made(cls, _Options())


def _made(cls: type[Any], options: _Options) -> Any:
    record = _fields_of(cls.__dict__, options)
    members = {**_shared(options, record), **cls.__dict__}
    for one in record:
        members.pop(one.name, None)
        if one.default is not _MISSING and not options.slots:
            members[one.name] = one.default
    made: Any = cls
    if options.slots:
        for name in ("__dict__", "__weakref__"):
            members.pop(name, None)
        made = type(cls).__call__(type(cls), cls.__name__, cls.__bases__, {**members, "__slots__": _names_of(record)})
        made.__qualname__ = cls.__qualname__
    else:
        for name in [name for name in _names_of(record) if name in cls.__dict__]:
            delattr(cls, name)
        for name in members.keys() - cls.__dict__.keys():
            setattr(cls, name, members[name])
    if "__init__" not in members:
        made.__init__ = _init_to_be(made, record, is_frozen=options.frozen)
    return made


def _shared(options: _Options, record: tuple[_Field, ...]) -> dict[str, Any]:
    """Return what is added to a class, where it has no such member of its own."""
    members: dict[str, Any] = {
        "__record__": record,
        "__match_args__": tuple(one.name for one in record if one.init and not one.kw_only),
        "__signature__": _Signature(),
        "__dataclass_fields__": _Standard(_standard_fields),
        "__dataclass_params__": _Standard(lambda _: options),
        "__replace__": _replace,
    }
    if options.repr:
        members["__repr__"] = _told
    if options.eq:
        members |= {"__eq__": _equals, "__hash__": _hashed if options.frozen else None}
    if options.frozen:
        members |= {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete}
    if options.frozen and options.slots:
        members |= {"__getstate__": _state, "__setstate__": _restore}
    return members


def _names_of(record: tuple[_Field, ...]) -> tuple[str, ...]:
    return tuple(one.name for one in record)


def _fields_of(members: Mapping[str, Any], options: _Options) -> tuple[_Field, ...]:
    found = []
    for name, kind in members.get("__annotations__", {}).items():
        given = members.get(name, _MISSING)
        one = given if type(given) is _Field else _Field(default=given)
        one.name, one.type, one.kw_only = name, kind, one.kw_only or options.kw_only
        found.append(one)
    return tuple(found)


# ---------------------------------------------------------------------- __init__, when it is first needed


def _init_to_be(cls: type[Any], record: tuple[_Field, ...], *, is_frozen: bool) -> Any:
    places = [one.name for one in record if one.init and not one.kw_only]
    names = {one.name for one in record if one.init}
    calls = 0

    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is
        nonlocal calls
        calls += 1  # two threads may count one call, which does not matter
        if calls > _FEW or not kwargs.keys().isdisjoint(places[: len(args)]):
            stub.write()(self, *args, **kwargs)
            return
        values = dict(zip(places, args, strict=False), **kwargs)
        if len(args) > len(places) or not names.issuperset(values) or not _fill(self, record, values):
            stub.write()(self, *args, **kwargs)  # it knows what to say

    stub: Any = __init__
    stub.write = lambda: _write_init(cls, record, is_frozen=is_frozen)
    return stub


def _fill(self: Any, record: tuple[_Field, ...], values: dict[str, Any]) -> bool:
    """Do what ``__init__`` does; return False, for the compiled one to complain, where a value is missing."""
    for one in record:
        if one.name in values:
            value = values[one.name]
        elif one.default is not _MISSING:
            value = one.default
        elif one.default_factory is not _MISSING:
            value = one.default_factory()
        elif one.init:
            return False
        else:
            continue  # __post_init__ sets it
        object.__setattr__(self, one.name, value)
    if hasattr(self, "__post_init__"):
        self.__post_init__()
    return True


def _write_init(cls: Any, record: tuple[_Field, ...], *, is_frozen: bool) -> Any:
    """Compile the class's own ``__init__``, and put it in the place of its stub; two threads may both do it."""
    scope: dict[str, Any] = {"_set": object.__setattr__, "_unset": _MISSING}
    by_place, by_name, body = ["self"], ["*"], []
    for one in record:
        name, value = one.name, one.name
        scope[f"_default_{name}"], scope[f"_make_{name}"] = one.default, one.default_factory
        has_default, has_factory = one.default is not _MISSING, one.default_factory is not _MISSING
        if one.init:
            into = by_name if one.kw_only else by_place
            into.append(f"{name}=_default_{name}" if has_default else f"{name}=_unset" if has_factory else name)
            if has_factory:
                value = f"_make_{name}() if {name} is _unset else {name}"
        elif has_factory:
            value = f"_make_{name}()"
        elif has_default:
            value = f"_default_{name}"
        else:
            continue  # __post_init__ sets it
        body.append(f"_set(self, {name!r}, {value})" if is_frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    parameters = ", ".join(by_place if by_name == ["*"] else by_place + by_name)
    lines = f"def make({', '.join(scope)}):\n def __init__({parameters}):\n  " + "\n  ".join(body or ["pass"])
    made: dict[str, Any] = {}
    # In its module's own namespace, where whoever reads the annotations looks for what they name.
    exec(lines + "\n return __init__", sys.modules[cls.__module__].__dict__, made)  # noqa: S102 - names of fields alone
    init = made["make"](**scope)
    init.__annotations__ = {one.name: one.type for one in record if one.init} | {"return": None}
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__module__ = cls.__module__
    cls.__init__ = init
    return init


class _Signature:
    """What ``inspect.signature`` of a class is to find: that of the ``__init__`` which there may not be yet."""

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is not None:
            raise AttributeError("__signature__")  # an instance that can be called has its own
        import inspect

        init = owner.__init__
        whole = inspect.signature(init.write() if hasattr(init, "write") else init)
        return whole.replace(parameters=list(whole.parameters.values())[1:])


# ---------------------------------------------------------------------- what all of them share


@reprlib.recursive_repr()
def _told(self: Any) -> str:
    told = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in self.__record__ if one.repr)
    return f"{type(self).__qualname__}({told})"


def _compared(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, one.name) for one in self.__record__ if one.compare])


def _equals(self: Any, other: object) -> Any:
    return _compared(self) == _compared(other) if other.__class__ is self.__class__ else NotImplemented


def _hashed(self: Any) -> int:
    return hash(_compared(self))


def _refuse_to_set(self: Any, name: str, value: object) -> None:
    _refuse(self, name, "assign to")
    object.__setattr__(self, name, value)


def _refuse_to_delete(self: Any, name: str) -> None:
    _refuse(self, name, "delete")
    object.__delattr__(self, name)


def _refuse(self: Any, name: str, what: str) -> None:
    """A subclass that is no record itself may have attributes of its own."""
    if "__record__" in type(self).__dict__ or any(one.name == name for one in self.__record__):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {what} field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, one.name) for one in self.__record__]


def _restore(self: Any, state: list[Any]) -> None:
    for one, value in zip(self.__record__, state, strict=True):
        object.__setattr__(self, one.name, value)


def _field(**options: Any) -> Any:
    return _Field(**options)


def _fields(record: Any) -> tuple[_Field, ...]:
    found: tuple[_Field, ...] = record.__record__
    return found


def _replace(record: Any, /, **changes: Any) -> Any:
    for one in record.__record__:
        if one.init and one.name not in changes:
            changes[one.name] = getattr(record, one.name)
    return type(record)(**changes)


class _Standard:
    """What the standard library looks for in a dataclass, made when it looks."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        return self._make(owner)


def _standard_fields(owner: Any) -> dict[str, Any]:
    import dataclasses

    standard = {}
    for one in owner.__record__:
        options = {name: getattr(one, name) for name in ("init", "repr", "compare", "kw_only")}
        for name in ("default", "default_factory"):
            if getattr(one, name) is not _MISSING:
                options[name] = getattr(one, name)
        made: Any = dataclasses.field(**options)
        made.name, made.type, made._field_type = one.name, one.type, dataclasses._FIELD  # type: ignore[attr-defined]  # noqa: SLF001
        standard[one.name] = made
    return standard


if not TYPE_CHECKING:
    dataclass, field, fields, replace = _dataclass, _field, _fields, _replace
