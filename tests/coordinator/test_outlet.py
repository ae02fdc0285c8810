"""Results on their way to the consumer, who may be patient (H1, H2)."""

import pytest

from mpengine.coordinator.outlet import HOLD_BYTES, HOLD_S, Delivery, End, Outlet


def delivery(number, payload=b"some"):
    return Delivery(number, payload, 0, 1, (number,))


def taken(outlet):
    found = []
    while (one := outlet.get_nowait()) is not None:
        found.append("end" if isinstance(one, End) else one.batch_id)
    return found


def test_who_is_not_patient_gets_results_at_once():
    outlet = Outlet()

    outlet.put_some_time(delivery(1), 5.0)

    assert taken(outlet) == [1]
    assert outlet.due_at is None


def test_h1_who_is_patient_gets_them_together_and_in_order():
    outlet = Outlet()
    outlet.is_patient = True

    for number in range(3):
        outlet.put_some_time(delivery(number), 5.0 + number)
    assert taken(outlet) == []
    assert outlet.due_at == 5.0 + HOLD_S

    outlet.release()
    assert taken(outlet) == [0, 1, 2]
    assert outlet.due_at is None


@pytest.mark.parametrize(
    "payload",
    [bytes(HOLD_BYTES + 1), memoryview(bytes(HOLD_BYTES)), object()],
    ids=["heavy", "heavy with what is held", "of unknown weight"],
)
def test_h1_what_is_heavy_goes_at_once_and_takes_along_what_was_held(payload):
    outlet = Outlet()
    outlet.is_patient = True
    outlet.put_some_time(delivery(1), 5.0)

    outlet.put_some_time(delivery(2, payload), 5.0)

    assert taken(outlet) == [1, 2]
    assert outlet.due_at is None


def test_the_end_comes_behind_what_was_held():
    outlet = Outlet()
    outlet.is_patient = True
    outlet.put_some_time(delivery(1), 5.0)

    outlet.put(End())

    assert taken(outlet) == [1, "end"]
