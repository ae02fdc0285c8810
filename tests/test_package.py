"""What people install: an sdist and a wheel, built as scripts/package builds them, and tried with the core alone."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"

# Environments are made, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def packing():
    """The modules that scripts/package is made of; they are forgotten after the last test."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        importlib.import_module("packing.publicity")
        importlib.import_module("packing.trying")
        importlib.import_module("packing.places")
        yield sys.modules["packing"]
        for name, module in list(sys.modules.items()):
            if name not in before and str(getattr(module, "__file__", None) or "").startswith(str(SCRIPTS)):
                del sys.modules[name]


@pytest.fixture(scope="module")
def built(packing, tmp_path_factory):
    if not (SCRIPTS.parent / ".git").exists():
        pytest.skip("not a git checkout")
    return packing.building.build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def core(packing, built, tmp_path_factory):
    """A place with the wheel and what it needs, and nothing else; nothing is fetched for it."""
    place = packing.places.Place(tmp_path_factory.mktemp("core") / "place")
    place.adopt("click", "cloudpickle", "psutil", "rich")
    place.install("--no-deps", "--no-index", str(built.wheel))
    return place


@pytest.mark.slow
def test_building_warns_of_nothing_and_leaves_no_trace(packing, built):
    assert built.warnings == []
    assert [name for name in packing.building.tracked() if name.startswith(("build/", "dist/"))] == []


@pytest.mark.slow
def test_an_sdist_holds_what_the_repository_does(packing, built):
    assert packing.building.odd_in_sdist(built.sdist) == []


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_what_tells_of_it(packing, built):
    assert packing.building.odd_in_wheel(built.wheel) == []
    names = packing.building.names_in(built.wheel)
    assert {"mpengine/py.typed", "mpengine/dashboard/page/index.html"} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_a_wheel_says_what_setup_cfg_does_and_its_readme_can_be_shown(packing, built):
    docutils = pytest.importorskip("docutils.core")
    told, config = packing.building.metadata(built.wheel), packing.building.config()

    assert told["Version"] == config["metadata"]["version"]
    assert set(told["Requires-Python"].split(",")) == set(config["options"]["python_requires"].split(","))
    assert set(told.get_all("Provides-Extra")) >= set(packing.building.extras())
    assert told["Description-Content-Type"] == "text/x-rst"
    complaints = io.StringIO()
    shown = docutils.publish_string(
        told.get_payload(), writer="html5", settings_overrides={"warning_stream": complaints, "report_level": 2}
    )
    assert complaints.getvalue() == ""
    assert b"crash-proof" in shown


@pytest.mark.slow
def test_with_the_core_alone_every_public_name_is_had_and_an_engine_runs(packing, core):
    packing.trying.try_core(core)


@pytest.mark.slow
def test_the_command_works_by_both_its_names(packing, core):
    packing.trying.try_command_line(core)


EXTRAS = ("dashboard", "joblib", "parquet", "prometheus", "ray", "zstd")


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_what_takes_an_extra_names_it_where_it_is_missing(packing, core, extra):
    assert f"mpengine[{extra}]" in packing.trying.try_without(core, extra)


def test_every_extra_has_a_trial_with_and_without(packing):
    extras = set(packing.building.extras())

    assert {path.stem.removeprefix("with_") for path in packing.trying.TRIALS.glob("with_*.py")} == extras
    assert extras - set(packing.trying.NOT_MISSED) == set(EXTRAS)


def test_every_public_name_is_in_the_reference(packing):
    documented = {id(thing) for _, thing in documented_things(packing)}

    assert [name for name, thing in packing.publicity.exported() if id(thing) not in documented] == []


def test_every_public_name_says_what_it_takes_and_gives(packing):
    assert [fault for _, thing in documented_things(packing) for fault in packing.publicity.undeclared(thing)] == []


def documented_things(packing):
    for name in packing.publicity.public():
        module, _, own = name.rpartition(".")
        yield name, getattr(importlib.import_module(module), own)
