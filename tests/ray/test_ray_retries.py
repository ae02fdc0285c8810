"""The suite of the same name, on Ray."""

import pytest
import test_retries
from ray_suites import on_ray

pytestmark = pytest.mark.long

globals().update(on_ray(test_retries))
