"""The pytest plugin: a test that leaves a process behind fails, whatever code has started it.

pytest loads this module in every run of every project where mpengine is installed.  So it imports nothing but pytest;
the work is done by `mpengine.testing`, which is loaded for the first test that asks for it.
"""

from collections.abc import Iterator

import pytest

NAME = "no_orphans"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option."""
    parser.addini(NAME, "fail every test that leaves a process behind", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker."""
    config.addinivalue_line(
        "markers",
        f"{NAME}(*, timeout_s=2.0, end=True, blame_stdlib=False): fail the test if it leaves a process behind; "
        f"{NAME}(False) lets it be, where the ini option asks for it",
    )


@pytest.fixture
def no_orphans(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test if it, or a fixture of its own, leaves a process behind."""
    from mpengine.testing import assert_no_orphans

    marker = request.node.get_closest_marker(NAME)
    message = None
    try:
        with assert_no_orphans(**(marker.kwargs if marker else {})):
            yield
    except AssertionError as error:
        message = str(error)
    if message is not None:
        pytest.fail(message, pytrace=False)


# A plugin's autouse fixtures come after all fixtures of a wider scope, and before all others of a test's own: what the
# former start was there before, what the latter start has to be gone.
@pytest.fixture(autouse=True)
def _no_orphans_where_asked(request: pytest.FixtureRequest) -> None:
    if NAME in request.fixturenames or _is_asked_for(request.node.get_closest_marker(NAME), request.config):
        request.getfixturevalue(NAME)


def _is_asked_for(marker: pytest.Mark | None, config: pytest.Config) -> bool:
    return bool(config.getini(NAME)) if marker is None else marker.args != (False,)
