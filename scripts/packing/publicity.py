"""Every public name, and whether a type checker that reads the installed package knows what it is.

``Any`` stands for what is the user's: items, values, arguments of a user's function.  Everywhere else it would mean
that nobody has said what something is, or that a name comes from a package that need not be there.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING

from environments import ROOT

from packing.building import PackageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from packing.places import Place

REFERENCE = ROOT / "docs" / "reference.rst"
DOCUMENTED = re.compile(r"^\.\. auto(\w+):: (mpengine(?:\.\w+)+)\.(\w+)$", re.MULTILINE)
MODULES = (
    "mpengine", "mpengine.sources", "mpengine.sinks", "mpengine.testing", "mpengine.monitor.observing",
    "mpengine.executor", "mpengine.joblib",
)  # fmt: skip
"""Where users import from."""
REVEALED = re.compile(r'note: Revealed type is "(.*)"')


def check(place: Place, tools: str, folder: Path) -> None:
    """Have mypy read a user's program and every public name, in strict mode, against what is installed in a place."""
    typed = folder / "typed"
    typed.mkdir()
    shutil.copy(ROOT / "tests" / "typing_examples.py", typed / "examples.py")
    (typed / "names.py").write_text(program(), encoding="utf-8")
    command = [
        tools, "-I", "-m", "mypy", "--strict", "--enable-error-code", "exhaustive-match", "--config-file", "",
        "--cache-dir", str(typed / "cache"), "--python-executable", str(place.python), "examples.py", "names.py",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=typed, capture_output=True, text=True, check=False)
    faults = [line for line in done.stdout.splitlines() if ": error:" in line]
    revealed = REVEALED.findall(done.stdout)
    if faults or done.stderr or len(revealed) != len(public()):
        raise PackageError(done.stdout + done.stderr)
    unknown = [
        f"{name}: {told}" for name, told in zip(public(), revealed, strict=True) if told in ("Any", "def (*Any, **Any)")
    ]
    if unknown:
        raise PackageError("nobody knows what these are:\n" + "\n".join(unknown))


def program() -> str:
    """Return a program that asks what every public name is."""
    modules = sorted({name.rpartition(".")[0] for name in public()})
    return "".join(f"import {module}\n" for module in modules) + "".join(f"reveal_type({name})\n" for name in public())


def public() -> list[str]:
    """Return all names of the reference."""
    found = DOCUMENTED.findall(REFERENCE.read_text(encoding="utf-8"))
    return sorted(f"{module}.{name}" for _, module, name in found)


def exported() -> Iterator[tuple[str, Any]]:
    """Yield the name and the thing of all that modules which users import have in them for users."""
    for module in map(import_module, MODULES):
        own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", None) == module.__name__]
        for name in getattr(module, "__all__", own):
            if not name.startswith("_") and isinstance(getattr(module, name), type | FunctionType):
                yield f"{module.__name__}.{name}", getattr(module, name)


def undeclared(thing: object) -> list[str]:
    """Return the parameters and results of a function, or of a class's public methods, that have no annotation."""
    if inspect.isclass(thing):
        methods = [
            method
            for name, method in inspect.getmembers(thing, inspect.isfunction)
            if (name == "__init__" or not name.startswith("_")) and method.__module__.startswith("mpengine.")
        ]
        return [fault for method in methods for fault in undeclared(method)]
    if not inspect.isfunction(thing):
        return []
    signature = inspect.signature(thing)
    faults = [
        f"{thing.__qualname__}({parameter.name})"
        for parameter in list(signature.parameters.values())
        if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
    ]
    return faults + [f"{thing.__qualname__} ->"] * (signature.return_annotation is signature.empty)
