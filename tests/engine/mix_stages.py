"""What workers import by name for the tests of mixes; light, since every worker pays for what is imported here."""

import engine_stages as stages

from mpengine import mix


def triple(x):
    return 3 * x


def negate(x):
    return -x


def add_up(results):
    return sum(results)


def apart(results):
    yield from results


@mix(merge=add_up)
def analyse():
    return [stages.double, triple, negate]
