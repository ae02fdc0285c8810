"""The contract's page: each promise names the tests that hold it, and each signature is that of the code."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import mpengine
import mpengine.testing
from mpengine.engine import Engine
from mpengine.metrics import Snapshot, StageMetrics, WorkerMetrics
from mpengine.results import Err, ItemError, Ok, Report
from mpengine.stages import Stage, stage

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "contract.rst").read_text(encoding="utf-8")

SECTION = re.compile(r"^(?P<title>\S.*)\n-+\n(?P<body>(?:.*\n)*?)(?=^\S.*\n-+\n|\Z)", re.MULTILINE)
BLOCK = re.compile(r"^(?:\.\. code-block:: text|::)\n\n(?P<body>(?:(?: {4}.*)?\n)+)", re.MULTILINE)
DEFINITION = re.compile(r"^(?P<term>[^\s.:].*)\n(?P<body>(?: {4}.*\n|\n(?= {4}))+)", re.MULTILINE)
SIGNATURE = re.compile(r"^(?P<name>[\w.]+)\((?P<parameters>[^)]*(?:\(\w*,?\)[^)]*)*)\)$", re.MULTILINE)
NAMED = re.compile(r"``(tests/[\w/]+\.py)::(\w+)``")

# Of these the page gives the names, in order; what they are by default is of no concern to those who read them.
FIELDS_ALONE = (Ok, Err, Report, Snapshot, StageMetrics, WorkerMetrics, ItemError)


def sections():
    return {found["title"]: found["body"] for found in SECTION.finditer(TEXT)}


def definitions(body):
    return [(found["term"], found["body"]) for found in DEFINITION.finditer(BLOCK.sub("\n", body))]


def signatures():
    blocks = "\n".join(re.sub(r"^ {4}", "", found["body"], flags=re.MULTILINE) for found in BLOCK.finditer(TEXT))
    return {found["name"]: found["parameters"] for found in SIGNATURE.finditer(blocks)}


def promises():
    return [
        pytest.param(term, body, id=f"{title}: {term}")
        for title, section in sections().items()
        if title != "Not yet"
        for term, body in definitions(section)
    ]


@pytest.mark.parametrize(("term", "body"), promises())
def test_a_promise_names_a_test_that_is_there(term, body):
    named = NAMED.findall(body)

    assert named, term
    for path, name in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name}\(|^{name} = ", source, re.MULTILINE), f"{path}::{name}"


def test_the_page_has_the_contracts_sections_and_promises_something_in_each():
    found = {title: len(definitions(body)) for title, body in sections().items()}

    assert set(found) >= {
        "Stages",
        "Error policies",
        "Pipelines",
        "Engine",
        "Results",
        "Executor",
        "Command line",
        "Test suites",
    }
    assert [title for title, count in found.items() if not count] == []


def test_what_is_not_there_yet_names_no_test():
    assert NAMED.findall(sections().get("Not yet", "")) == []


def test_each_test_of_promises_stands_beside_a_promise():
    named = {name for _, name in NAMED.findall(TEXT)}
    written = [
        (path, name)
        for path in ("tests/engine/test_promises.py", "tests/cli/test_contract_lines.py")
        for name in re.findall(r"^def (test_\w+)", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    ]

    assert [f"{path}::{name}" for path, name in written if name not in named] == []


def test_every_name_on_the_page_can_be_imported():
    block = re.search(r"from mpengine import \((.*?)\)", TEXT, re.DOTALL)
    names = re.findall(r"\w+", block.group(1))

    assert len(names) == len(set(names)) > 20
    assert [name for name in names if name not in mpengine.__all__ or not hasattr(mpengine, name)] == []


# ---------------------------------------------------------------------- signatures

PROMISED_SIGNATURES = {
    "stage", "WorkerState.get", "WorkerState.update", "KillSwitch", "Retry", "mix", "cancelled", "ItemError",
    "Pipeline", "Pipeline.stage", "Pipeline.run", "Pipeline.iter", "Pipeline.cancel", "Pipeline.snapshot",
    "Engine", "Engine.run", "Engine.iter", "Engine.map", "Engine.arun", "Engine.aiter", "Engine.cancel",
    "Engine.snapshot", "Engine.pids", "Engine.close", "Journal",
    "Ok", "Err", "Report", "Snapshot", "StageMetrics", "WorkerMetrics", "Snapshot.as_dict",
    "Executor", "Executor.submit", "Executor.map", "Executor.shutdown", "Executor.kill_workers",
    "Executor.call_off", "Executor.terminate_workers", "joblib.register", "joblib.shutdown",
    "testing.assert_no_orphans",
}  # fmt: skip


def test_no_signature_is_missing():
    assert set(signatures()) == PROMISED_SIGNATURES


@pytest.mark.parametrize("name", sorted(PROMISED_SIGNATURES))
def test_a_signature_on_the_page_is_that_of_the_code(name):
    named = thing = mpengine
    for part in name.split("."):
        named, thing = thing, getattr(thing, part)
    of_code = parameters_of(thing, is_method=inspect.isclass(named))
    of_page = parameters_on_page(signatures()[name])
    if thing in FIELDS_ALONE:
        of_code, of_page = ([parameter.name for parameter in found] for found in (of_code, of_page))

    assert of_page == of_code


def parameters_of(thing, *, is_method):
    """Return the parameters of a function or class, without their annotations."""
    found = list(inspect.signature(thing).parameters.values())
    if thing is stage:  # a decorator that hands its options on
        assert found.pop().kind is inspect.Parameter.VAR_KEYWORD
        found += [other for other in inspect.signature(Stage).parameters.values() if other.kind is other.KEYWORD_ONLY]
    return [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found[is_method:]]


def parameters_on_page(text):
    """Return the parameters that ``text`` names, with their defaults."""
    parsed = ast.parse(f"def on_page({text}): pass")
    namespace = {name: getattr(mpengine, name) for name in mpengine.__all__}
    exec(compile(parsed, "docs/contract.rst", "exec"), namespace)
    return list(inspect.signature(namespace["on_page"]).parameters.values())


def test_engine_has_no_option_that_the_page_does_not_name():
    named = [parameter.name for parameter in parameters_on_page(signatures()["Engine"])]

    assert named == list(inspect.signature(Engine).parameters)
