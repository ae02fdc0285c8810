"""What the contract promises of the command line (docs/contract.rst) and no other test holds."""

from __future__ import annotations

import pytest

from mpengine import engine


def test_standard_output_has_the_values_and_nothing_else(command):
    outcome = command("run", "jobs:evens")

    assert outcome.status == 1
    assert outcome.values == [0, 2]  # every line was JSON
    assert "failed" in outcome.err
    assert "values out" in outcome.err


def test_w_is_the_number_of_workers(command, monkeypatch):
    made = []

    class NotingEngine(engine.Engine):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self.workers)

    monkeypatch.setattr(engine, "Engine", NotingEngine)
    assert command("run", "jobs:small", "-w", "3").status == 0
    assert made == [3]


def test_an_emitted_error_makes_the_status_1(command):
    outcome = command("map", "jobs:fraction", "--input", "numbers.txt", "--on-error", "emit")

    assert outcome.status == 1
    assert [value for value in outcome.values if isinstance(value, float)] == [0.25, 0.5, 1.0]
    assert outcome.values[2]["item_error"]["index"] == 2


CHATTY = """
import os
from mpengine import Pipeline
print("imported")

def chat(number):
    print("printed")
    os.write(1, b"written\\n")
    return number

def total(values):
    print("summed")
    return [("total", sum(values))]

pipeline = Pipeline([1, 2, 3]) >> chat
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["inline", "process"])
@pytest.mark.parametrize("output", ["-", "out.jsonl"])
def test_what_modules_and_stages_print_goes_to_standard_error_w4(program, jobs, backend, output):
    (jobs / "chatty.py").write_text(CHATTY)
    arguments = ["-w", "1", "--backend", backend, "--output", output, "--summary", "chatty:total"]
    process = program("run", "chatty:pipeline", *arguments)

    out, err = process.communicate()
    assert process.returncode == 0
    assert (out or (jobs / output).read_text()) == "1\n2\n3\n"
    assert [err.count(word) for word in ("imported", "printed", "written", "summed")] == [
        1 + (backend == "process"), 3, 3, 1,  # a worker imports the module too
    ]  # fmt: skip
