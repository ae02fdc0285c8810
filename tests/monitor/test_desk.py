"""What is behind the board: asks, answers, and who watches."""

import threading

import pytest

from mpengine.monitor import desk as desk_module
from mpengine.monitor.desk import MAX_ANSWER, MAX_ASKS, MAX_TEXT, WATCH_S, Desk

PATIENCE_S = 20.0


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(desk_module, "time", clock)
    return clock


@pytest.fixture
def desk(monkeypatch):
    monkeypatch.setattr(desk_module, "WAIT_S", 0.0)
    return Desk()


def test_what_is_published_is_the_dict_and_what_is_seen(desk, clock):
    assert desk.publish("one", {"state": "running"}, {"workers": []}) == (False, [])
    clock.now += 2
    assert desk == {"state": "running"}
    assert desk.look() == {
        "run_id": "one", "number": 1, "age_s": 2.0, "figures": {"state": "running"}, "sights": {"workers": []},
    }  # fmt: skip


def test_v1_what_is_asked_is_taken_once_with_the_next_publication(desk):
    number = desk.ask("one", "cancel", "enough")
    assert desk.publish("one") == (False, [(number, "one", "cancel", "enough")])
    assert desk.publish("one") == (False, [])
    assert desk.fetch(number) is None
    desk.answer(number, "done")
    assert desk.fetch(number) == "done"
    assert desk.fetch(number) is None


def test_v2_a_viewer_is_forgotten_when_it_looks_no_more(desk, clock):
    desk.look()
    assert desk.publish("one")[0]
    clock.now += WATCH_S + 0.1
    assert not desk.publish("one")[0]


def test_v3_what_is_too_much_is_refused(desk):
    with pytest.raises(ValueError, match=f"may have {MAX_TEXT}"):
        desk.ask("one", "cancel", "x" * (MAX_TEXT + 1))
    for number in range(MAX_ASKS):
        assert desk.ask("one", "stacks") == number + 1
    with pytest.raises(ValueError, match="too much"):
        desk.ask("one", "stacks")
    for number in range(2 * MAX_ASKS):
        desk.answer(number, "x" * 2 * MAX_ANSWER if not number else "")
    assert len(desk._answers) == MAX_ASKS


@pytest.mark.parametrize("ask", [("one", "explode", ""), ("one", "cancel", 5), (None, "cancel", ""), ("one", 1, "")])
def test_v3_what_makes_no_sense_is_refused(ask, desk):
    with pytest.raises(ValueError, match="can be asked for"):
        desk.ask(*ask)
    assert desk.publish("one") == (False, [])


def test_v4_another_run_on_the_same_board_hears_nothing_of_it(desk):
    desk.ask("one", "cancel", "enough")
    assert desk.publish("two") == (False, [])
    assert desk.publish("one") == (False, [])  # it is over, and nobody asks it any more


def test_what_was_asked_can_be_taken_back_until_it_is_taken(desk):
    number = desk.ask("one", "cancel")
    assert desk.withdraw(number)
    assert not desk.withdraw(number)
    assert desk.publish("one") == (False, [])


def test_v5_who_waits_is_told_at_once_and_never_waits_for_long(monkeypatch):
    monkeypatch.setattr(desk_module, "WAIT_S", PATIENCE_S)
    desk, seen = Desk(), []
    viewer = threading.Thread(target=lambda: seen.append(desk.look(0, 1e9)["number"]))
    viewer.start()
    desk.publish("one", {"state": "running"})
    viewer.join(PATIENCE_S)
    assert seen == [1]
    monkeypatch.setattr(desk_module, "WAIT_S", 0.001)
    assert desk.look(1, 1e9)["number"] == 1
    assert desk.fetch(77, 1e9) is None
