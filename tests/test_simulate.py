"""The simulation: it runs, nothing of it depends on the machine, and what it shows of batches is what is promised."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(autouse=True)
def simulating(from_scripts):
    from_scripts("simulating.costs")
    from_scripts("simulating.world")
    return from_scripts("simulating")


def run(simulating, *costs, **options):
    return simulating.world.World(simulating.world.Setting(costs, **options)).run()


@pytest.mark.slow
def test_the_same_run_comes_out_the_same(simulating):
    costs = simulating.costs.with_slow(0.002, 0.1, 50)
    outcomes = [run(simulating, costs, workers=3, items=600, deaths_s=0.2, seed=5) for _ in range(2)]

    assert len({repr(dataclasses.replace(outcome, cpu_s=0.0)) for outcome in outcomes}) == 1
    assert outcomes[0].deaths
    assert outcomes[0].delivered == 600


@pytest.mark.slow
@pytest.mark.parametrize("tells_length", [True, False])
def test_uneven_stages_keep_all_workers_busy(simulating, tells_length):
    stages = map(simulating.costs.even, (0.001, 0.004, 0.0005))

    assert run(simulating, *stages, workers=4, items=1600, tells_length=tells_length).utilisation > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_random_costs_keep_all_workers_busy(simulating, seed):
    import random

    chance = random.Random(seed)
    makers = simulating.costs
    stages = [
        chance.choice(
            [makers.even, lambda mean: makers.spread(mean, 0.7), lambda mean: makers.with_slow(mean, 9 * mean, 99)]
        )(10 ** chance.uniform(-3.5, -1.5))
        for _ in range(chance.randint(1, 4))
    ]

    assert run(simulating, *stages, workers=chance.choice([2, 4]), items=1500, seed=seed).efficiency > 0.97


@pytest.mark.slow
def test_batches_are_of_the_right_size_within_a_few(simulating):
    outcome = run(simulating, simulating.costs.even(0.001), items=2000, tells_length=False)

    assert 25 <= max(outcome.sizes[:12]) < 35  # two workers, and two batches each that were asked for knowing nothing
    assert 90 <= max(outcome.sizes) <= 100


@pytest.mark.slow
def test_where_the_source_tells_its_length_there_are_fewer_batches_and_workers_are_as_busy(simulating):
    told, untold = [
        run(simulating, simulating.costs.even(0.005), items=400, tells_length=tells) for tells in (True, False)
    ]

    assert told.batches < 0.8 * untold.batches
    assert min(told.utilisation, untold.utilisation) > 0.98


@pytest.mark.slow
def test_batches_shrink_towards_the_end_of_the_input(simulating):
    outcome = run(simulating, simulating.costs.even(0.001), workers=4, items=2000)

    assert max(outcome.sizes) > 25
    assert max(outcome.sizes[-4:]) <= 3


@pytest.mark.slow
def test_a_cost_that_rises_a_hundredfold_is_followed_at_once(simulating):
    outcome = run(simulating, simulating.costs.changing(0.0001, 0.01), items=4000)

    assert outcome.efficiency > 0.97


@pytest.mark.slow
def test_heavy_tails_are_handed_out_nearly_as_well_as_single_items_would_be(simulating):
    outcome = run(simulating, simulating.costs.with_slow(0.001, 2.0, 500), workers=16, items=16_000)

    assert outcome.efficiency > 0.95


@pytest.mark.slow
def test_what_is_under_way_is_a_few_batches_a_worker(simulating):
    outcome = run(simulating, simulating.costs.even(0.001), workers=32, items=8000)

    assert outcome.most_items < 32 * 50 * 5


@pytest.mark.slow
def test_the_script_shows_its_tables_and_writes_them(tmp_path):
    page = tmp_path / "page.rst"
    page.write_text("before\n.. begin: the simulation's figures\n.. end: the simulation's figures\nafter\n")
    command = [
        sys.executable,
        str(SCRIPTS / "simulate"),
        "--quick",
        "--only",
        "needed",
        "--only",
        "cost",
        "--write",
        str(page),
    ]
    told = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)

    assert told.returncode == 0, told.stderr
    assert "What a batch costs the scheduler" in told.stdout
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "list-table:: How much work a batch and an item have to be" in text
