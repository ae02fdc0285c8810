"""With what it runs on and nothing else: every public name is had, and an engine runs."""

import pkgutil
import sys
from importlib import import_module
from importlib.metadata import version

import mpengine
from mpengine import Engine, Pipeline
from mpengine.testing import assert_no_orphans

BROUGHT_BY_EXTRAS = {"joblib", "prometheus_client", "pyarrow", "pytest", "ray", "starlette", "uvicorn", "zstandard"}


def main() -> None:
    """Run an engine, have every public name, and import every module."""
    with assert_no_orphans():
        for options in ({}, {"start_method": "spawn"}, {"start_method": "fork"}, {"backend": "inline"}):
            values = (Pipeline(range(5)) >> (lambda number: 2 * number)).run(Engine(2, **options)).unwrap().values
            if values != [0, 2, 4, 6, 8]:
                sys.exit(f"{options}: {values}")
    if unwanted := BROUGHT_BY_EXTRAS & set(sys.modules):
        sys.exit(f"a run has imported {unwanted}")
    for name in mpengine.__all__:
        getattr(mpengine, name)
    if mpengine.__version__ != version("mpengine"):
        sys.exit(f"{mpengine.__version__} is installed as {version('mpengine')}")
    for module in pkgutil.walk_packages(mpengine.__path__, "mpengine.", onerror=_refused):
        if not module.name.endswith("__main__"):
            try:
                import_module(module.name)
            except ImportError:
                _refused(module.name)
    print("core: good")


def _refused(name: str) -> None:
    """Let pass who wants what an extra brings, or says so."""
    error = sys.exc_info()[1]
    is_told = "pip install 'mpengine[" in str(error) or (getattr(error, "name", None) or "") in BROUGHT_BY_EXTRAS
    if not is_told:
        raise SystemExit(f"{name} cannot be imported: {error!r}") from error


if __name__ == "__main__":
    main()
