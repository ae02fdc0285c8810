"""Measure and pack every module of the standard library of the Python that runs this.

    python -m mpengine run mpengine.examples.stdlib:pipeline --summary mpengine.examples.stdlib:summary > modules.jsonl

    modules()  ->  read  ->  measure  ->  pack
    paths          bytes      syntax       zlib, lzma, sha256

One dict comes out for each module, in the order of the paths and the same in every run.  The library's own test suite
holds files that are broken on purpose; each of those fails its stage, is dropped, and is named in the report.
"""

from __future__ import annotations

import ast
import hashlib
import lzma
import os
import sysconfig
import tokenize
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpengine import ErrorPolicy, Pipeline, stage
from mpengine.records import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(sysconfig.get_path("stdlib"))
NOT_OURS = {"__pycache__", "dist-packages", "site-packages"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Function | ast.ClassDef
Branch = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.match_case)


@dataclass(frozen=True, slots=True)
class Source:
    """A module as it lies on the disk."""

    path: str
    raw: bytes = field(repr=False)
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Measured:
    """A module and what its syntax tree tells of it."""

    source: Source
    figures: dict[str, Any]


def modules() -> Iterator[str]:
    """Yield the path of every module below ``ROOT``, relative to it and sorted."""
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = sorted(set(subfolders) - NOT_OURS)
        for name in sorted(names):
            if name.endswith(".py"):
                yield (Path(folder) / name).relative_to(ROOT).as_posix()


@stage(on_error=ErrorPolicy.DROP)
def read(path: str) -> Source:
    """Read a module and decode it as its first lines ask."""
    with (ROOT / path).open("rb") as file:
        encoding, _ = tokenize.detect_encoding(file.readline)
        file.seek(0)
        raw = file.read()
    return Source(path, raw, raw.decode(encoding))


@stage(on_error=ErrorPolicy.DROP)
def measure(source: Source) -> Measured:
    """Parse a module and measure its functions, imports and docstrings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        tree = ast.parse(source.raw, source.path)
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, Function)]
    scopes = [tree, *(node for node in nodes if isinstance(node, Scope))]
    complexities = [complexity(function) for function in functions]
    figures = {
        "lines": len(source.text.splitlines()),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "functions": len(functions),
        "longest_function": greatest(functions, [length(function) for function in functions]),
        "most_complex_function": greatest(functions, complexities),
        "complexity": sum(complexities),
        "imports": sorted({name for node in nodes for name in imported(node)}),
        "documented": round(sum(map(has_docstring, scopes)) / len(scopes), 3),
    }
    return Measured(source, figures)


@stage
def pack(module: Measured) -> dict[str, Any]:
    """Compress a module, hash it, and put together what is known of it."""
    raw = module.source.raw
    return {
        "path": module.source.path,
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "zlib_bytes": len(zlib.compress(raw, level=9)),
        "lzma_bytes": len(lzma.compress(raw)),
        **module.figures,
    }


pipeline = Pipeline(modules) >> read >> measure >> pack


def complexity(function: Function) -> int:
    """Return McCabe's number: the branches of a function, and one; nested functions count for themselves."""
    return 1 + sum(branches(node) for node in own_nodes(function))


def branches(node: ast.AST) -> int:
    """Return how many further ways through the code ``node`` opens."""
    match node:
        case ast.BoolOp(values=values):
            return len(values) - 1
        case ast.comprehension(ifs=conditions):
            return 1 + len(conditions)
        case _:
            return int(isinstance(node, Branch))


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """Yield the nodes of a function's body, without those of functions and classes inside it."""
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        if not isinstance(node, Scope):
            yield node
            pending.extend(ast.iter_child_nodes(node))


def length(function: Function) -> int:
    """Return the lines of a function, decorators left out."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def imported(node: ast.AST) -> list[str]:
    """Return the top-level packages that ``node`` imports; relative imports are the module's own."""
    match node:
        case ast.Import(names=names):
            return [alias.name.partition(".")[0] for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module.partition(".")[0]]
        case _:
            return []


def has_docstring(scope: ast.Module | Scope) -> bool:
    """Whether a module, class or function says what it is."""
    return ast.get_docstring(scope, clean=False) is not None


def greatest(functions: list[Function], figures: list[int]) -> dict[str, Any] | None:
    """Return the function with the greatest figure, the first one of equals; None when there is none."""
    if not functions:
        return None
    where = figures.index(max(figures))
    return {"name": functions[where].name, "value": figures[where]}


def summary(values: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the job's totals as labels and figures."""
    found = list(values)
    if not found:
        return [("modules", "0")]
    with_functions = [module for module in found if module["functions"]]
    total_bytes = sum(module["bytes"] for module in found)
    largest = max(found, key=lambda module: module["lines"])
    rows = [
        ("modules", f"{len(found):,}"),
        ("lines", f"{sum(module['lines'] for module in found):,}"),
        ("functions", f"{sum(module['functions'] for module in found):,}"),
        ("largest module", f"{largest['path']} ({largest['lines']:,} lines)"),
        ("packed with lzma", f"{sum(module['lzma_bytes'] for module in found) / max(total_bytes, 1):.0%} of the bytes"),
    ]
    if with_functions:
        knot = max(with_functions, key=lambda module: module["most_complex_function"]["value"])
        function = knot["most_complex_function"]
        rows.append(("most complex function", f"{function['name']} in {knot['path']} ({function['value']})"))
    return rows
