"""joblib's test file with another backend in the place of its own.

The file that joblib ships tests its backends by name.  What it says of ``"loky"`` is made to say the same of the
backend at hand, which is the only one in its lists and the default; programs that tests write and run know it, too.
Whatever names no backend that is a process's is left as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FILE = "test_parallel_aimed.py"

# What is written in the file, and what is to stand there instead; each must be found.
_CHANGES = (
    (r'PROCESS_BACKENDS = \["multiprocessing", "loky"\]', "PROCESS_BACKENDS = [{name!r}]"),
    (r'PARALLEL_BACKENDS = PROCESS_BACKENDS \+ \["threading"\]', "PARALLEL_BACKENDS = PROCESS_BACKENDS[:]"),
    (r"RETURN_GENERATOR_BACKENDS = BACKENDS\.copy\(\)", "RETURN_GENERATOR_BACKENDS = {{{name!r}: BACKENDS[{name!r}]}}"),
    (r"ALL_VALID_BACKENDS = \[None\] \+ sorted\(BACKENDS\.keys\(\)\)", "ALL_VALID_BACKENDS = [None, {name!r}]"),
    (
        r"ALL_VALID_BACKENDS \+= \[BACKENDS\[backend_str\]\(\) for backend_str in BACKENDS\]",
        "ALL_VALID_BACKENDS += [BACKENDS[{name!r}]()]",
    ),
    (r'    ALL_VALID_BACKENDS\.append\(mp\.get_context\("spawn"\)\)', "    pass"),
    (r'PROCESS_BACKENDS \+ \(\[\] if mp is None else \["spawn"\]\)', "PROCESS_BACKENDS"),
    (r'@parametrize\("(backend|child_backend|parent_backend)", BACKENDS\)', r'@parametrize("\1", [{name!r}])'),
    (r'\("loky", True\)', "({name!r}, {is_shared})"),
    (r'"loky"', "{name!r}"),
    (r"(?<!import )\bLokyBackend\b(?!,)", "AimedBackend"),
    (r"joblib\._parallel_backends\.AimedBackend", "AimedBackend"),
    (r'backend\.title\(\) \+ "Backend"', "BACKENDS[backend].__name__"),
    (r"^import joblib$", "import aimed\nimport joblib\nfrom aimed import AimedBackend"),
    (r"^from joblib import Parallel, delayed", "import aimed\nfrom joblib import Parallel, delayed"),
)

_REGISTERING = """\
from {module} import {name} as AimedBackend
from joblib.parallel import register_parallel_backend

register_parallel_backend({backend!r}, AimedBackend, make_default=True)
"""


@dataclass(frozen=True)
class Target:
    """A backend: what it is called, and the class, where it is."""

    backend: str
    module: str
    name: str
    is_shared: bool = False
    """Whether two calls share one pool, so that the end of one is the end of the other's workers."""


TARGETS = {
    "mpengine": Target("mpengine", "mpengine.joblib", "MpengineBackend"),
    "loky": Target("loky", "joblib._parallel_backends", "LokyBackend", is_shared=True),
    "sample": Target("sample", "borrowed.sample", "SampleBackend"),
}


def aim(target: Target, folder: Path) -> Path:
    """Write joblib's tests, aimed at ``target``, and the module that they know it by; return the test file.

    Raises:
        ValueError: joblib's file is not as this expects it to be.
    """
    import joblib.test

    text = (Path(joblib.test.__file__).parent / "test_parallel.py").read_text(encoding="utf-8")
    for pattern, replacement in _CHANGES:
        # re.sub has words of its own for a backslash; format() has for a brace.
        text, count = re.subn(
            pattern, replacement.format(name=target.backend, is_shared=target.is_shared), text, flags=re.MULTILINE
        )
        if not count and target.backend != "loky":
            raise ValueError(f"joblib's test_parallel.py has no {pattern!r} any more")
    (folder / "aimed.py").write_text(
        _REGISTERING.format(module=target.module, name=target.name, backend=target.backend), encoding="utf-8"
    )
    path = folder / FILE
    path.write_text(text, encoding="utf-8")
    return path
