"""The tables: each move that is in one leads where it says, any other is an error that tells its story."""

from __future__ import annotations

import itertools

import pytest

from mpengine.errors import InternalError
from mpengine.scheduler.batches import Batch
from mpengine.scheduler.crew import Crew
from mpengine.scheduler.lifecycles import (
    BATCH,
    RUN,
    WORKER,
    BatchMove,
    BatchState,
    RunMove,
    RunState,
    WorkerLife,
    WorkerMove,
    follow,
)

TABLES = [(RUN, RunState, RunMove), (WORKER, WorkerLife, WorkerMove), (BATCH, BatchState, BatchMove)]
LEGAL = [(table, *step) for table, _, _ in TABLES for step in table]
ILLEGAL = [
    (table, state, move)
    for table, states, moves in TABLES
    for state, move in itertools.product(states, moves)
    if (state, move) not in table
]
ENDS = {RunState.FINISHED, BatchState.SETTLED}


@pytest.mark.parametrize(("table", "state", "move"), LEGAL)
def test_a_move_leads_where_its_table_says(table, state, move):
    assert follow(table, state, move) is table[state, move]


@pytest.mark.parametrize(("table", "state", "move"), ILLEGAL)
def test_a_move_that_is_in_no_table_is_an_error_that_tells_its_story(table, state, move):
    with pytest.raises(InternalError, match=rf"{state.name} cannot {move.value}: what went before"):
        follow(table, state, move, "what went before")


@pytest.mark.parametrize(("table", "states", "moves"), TABLES)
def test_every_state_and_every_move_is_of_use(table, states, moves):
    assert {state for state, _ in table} == set(states) - ENDS
    assert {move for _, move in table} == set(moves)


def test_a_batch_that_cannot_move_stays_as_it_is_and_is_shown():
    batch = Batch(77, 0, [1], range(1), 0, 1)

    with pytest.raises(InternalError, match="batch_id=77"):
        batch.move(BatchMove.REQUEUE)

    assert batch.state is BatchState.QUEUED


def test_a_worker_greets_only_while_it_starts():
    worker = Crew(6, [None])[5]

    with pytest.raises(InternalError, match=r"ABSENT cannot say hello.*worker_id=5"):
        worker.move(WorkerMove.GREET)

    worker.move(WorkerMove.START)
    worker.move(WorkerMove.GREET)
    assert worker.is_ready
