from mpengine.processes.stopping import Rung, StopLadder


def test_each_rung_is_due_once_and_in_order():
    ladder = StopLadder(began_at=100.0, grace_s=5.0, term_s=0.5)
    assert ladder.rungs_due(104.9) == ()
    assert ladder.deadline_at(104.9) == 105.0
    assert ladder.rungs_due(105.0) == (Rung.TERMINATE,)
    assert ladder.rungs_due(105.0) == ()
    assert ladder.deadline_at(105.0) == 105.5
    assert ladder.rungs_due(105.5) == (Rung.KILL,)
    assert ladder.rungs_due(200.0) == ()
    assert ladder.deadline_at(200.0) is None


def test_a_late_look_finds_both_rungs():
    assert StopLadder(began_at=0.0, grace_s=1.0).rungs_due(9.0) == (Rung.TERMINATE, Rung.KILL)


def test_a_deadline_that_has_passed_is_now():
    assert StopLadder(began_at=0.0, grace_s=1.0).deadline_at(3.0) == 3.0


def test_hurrying_goes_straight_to_the_kill():
    ladder = StopLadder(began_at=0.0, grace_s=10.0)
    ladder.hurry(2.0)
    assert ladder.deadline_at(2.0) == 2.0
    assert ladder.rungs_due(2.0) == (Rung.KILL,)
    ladder.hurry(3.0)
    assert ladder.rungs_due(3.0) == ()
    assert ladder.deadline_at(3.0) is None


def test_hurrying_late_does_not_put_the_kill_off():
    ladder = StopLadder(began_at=0.0, grace_s=1.0, term_s=1.0)
    ladder.hurry(5.0)
    assert ladder.deadline_at(1.5) == 2.0
