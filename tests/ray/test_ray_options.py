"""What ``ray_options`` can be, and what is told where Ray is not there."""

import sys

import pytest

from mpengine import Engine, EngineError
from mpengine.backends.ray.cluster import load_ray
from mpengine.backends.ray.options import RayOptions


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("auto", r"ray_options must be a mapping, not 'auto'"),
        ({"adress": "auto"}, r"ray_options has no 'adress'; it may have address, namespace, init, num_cpus"),
        ({"address": 6379}, r"ray_options\['address'\] must be a str, not 6379"),
        ({"address": "ray://head:10001"}, r"Ray's client cannot carry an engine"),
        ({"num_cpus": -1}, r"ray_options\['num_cpus'\] must be at least 0, not -1"),
        ({"num_cpus": True}, r"ray_options\['num_cpus'\] must be a number, not True"),
        ({"resources": "gpu"}, r"ray_options\['resources'\] must be a mapping, not 'gpu'"),
    ],
)
def test_what_ray_options_cannot_be_is_one_error_that_names_it(options, told):
    with pytest.raises(ValueError, match=told):
        Engine(backend="ray", ray_options=options)


def test_ray_options_go_with_ray_alone():
    with pytest.raises(ValueError, match="ray_options go with backend='ray', not with 'process'"):
        Engine(ray_options={"address": "auto"})


def test_output_cannot_be_kept_on_ray():
    with pytest.raises(ValueError, match="keep_output does not go with backend='ray'"):
        Engine(backend="ray", keep_output=1000)


def test_options_of_the_connection_and_of_the_actors_are_told_apart():
    options = RayOptions.chosen(
        {"address": "auto", "init": {"log_to_driver": True}, "num_cpus": 2, "resources": {"a": 1}}
    )

    assert options.address == "auto"
    assert options.init == {"log_to_driver": True}
    assert options.actor == {"num_cpus": 2, "resources": {"a": 1}}


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(EngineError, match=r"pip install 'mpengine\[ray\]'"):
        load_ray()


def test_an_address_other_than_the_one_that_is_connected_is_refused(cluster):
    with pytest.raises(EngineError, match=r"connected to the Ray at .* already, not to 192\.0\.2\.1:6379"):
        Engine(1, backend="ray", ray_options={"address": "192.0.2.1:6379"}).run([[1], str])


def test_workers_are_the_cpus_of_the_cluster_unless_told_otherwise(make_engine):
    engine = make_engine(workers=None)

    assert engine.run([range(10), str]).is_ok
    assert engine.workers == 4
