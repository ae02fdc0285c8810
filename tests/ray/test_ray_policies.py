"""The suite of the same name, on Ray."""

import test_policies
from ray_suites import on_ray

globals().update(on_ray(test_policies))
