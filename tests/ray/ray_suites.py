"""Tests of other folders, to be run on Ray as well."""

import inspect

KINDS = {"kind", "every_kind", "engine"}


def on_ray(module, *but):
    """Return the tests of a module that run on every kind of engine, and its fixtures.

    Args:
        module: where they are.
        but: the names of those that cannot hold on Ray; the caller says why.
    """
    found = vars(module).items()
    tests = {name: test for name, test in found if name.startswith("test_") and inspect.isfunction(test)}
    unknown = [name for name in but if name not in tests]
    assert not unknown, unknown
    fixtures = {name: thing for name, thing in found if type(thing).__name__ == "FixtureFunctionDefinition"}
    every_kind = {name: test for name, test in tests.items() if KINDS & set(inspect.signature(test).parameters)}
    return fixtures | {name: test for name, test in every_kind.items() if name not in but}
