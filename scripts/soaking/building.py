"""From a recipe's steps to stages: in earnest, and as the reference that only pretends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mpengine import Retry, mix, stage
from soaking import forms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mpengine import ItemError
    from mpengine.mixes import Mix
    from mpengine.stages import Stage
    from soaking.recipes import Course, Step

NOTES = "executions"
STACKS = "stacks"

_CLASSES = {
    "Plain": forms.Plain, "Filter": forms.Filter, "Failing": forms.Failing, "Flaky": forms.Flaky,
    "Built": forms.Plain, "Many": forms.Many, "ManyLater": forms.ManyLater, "Later": forms.Later,
    "Listed": forms.Listed, "Mix": forms.Merge, "Thread": forms.Plain, "Async": forms.Later,
    "Once": forms.Once, "Once many": forms.Many, "Once listed": forms.Listed, "Once later": forms.Later,
}  # fmt: skip


def source_of(course: Course) -> Iterable[forms.Item]:
    """Return the items, as a list or as they come."""
    items: Iterable[forms.Item] = (
        ((index,), index, forms.Ballast.of(index, course.ballast)) for index in range(course.length)
    )
    return list(items) if course.is_list else items


def build(course: Course, folder: Path | None, handled: Callable[[ItemError], object]) -> list[Stage | Mix]:
    """Make the stages of a course.

    Args:
        course: what to make.
        folder: where executions and stacks are written; None: this is the reference.
        handled: gets what goes aside.
    """
    return [_build(place, step, folder, handled) for place, step in enumerate(course.steps)]


def _build(place: int, step: Step, folder: Path | None, handled: Callable[[ItemError], object]) -> Stage | Mix:
    options = dict(step.options)
    pretends = folder is None
    if pretends:
        options.pop("timeout", None)  # nothing takes time
        if options["on_error"] == "raise":
            options["on_error"] = "drop"  # the reference goes on, to tell all that may fail
    if options["on_error"] == "side":
        options["error_handler"] = handled
    if options.get("retries") == "backoff":
        options["retries"] = Retry(1, backoff_s=0.001, jitter=0.5, on=(OSError,))
    name = name_of(place, step)
    form = _CLASSES[step.form](
        name=name,
        number=step.number,
        cost_s=step.cost_s,
        poison=step.poison,
        notes=None if pretends or options.get("idempotent", True) else f"{folder}/{NOTES}",
        stacks=None if pretends or step.form in ("Thread", "Async") else f"{folder}/{STACKS}",
        pretends=pretends,
    )
    if step.form == "Mix":
        return _mix(form, options)
    if step.form == "Flaky":
        options.update(setup=forms.set_up, teardown=forms.tear_down)
    if step.form in ("Thread", "Async"):
        options["kind"] = step.form.lower()
        options["concurrency"] = step.number
    return stage(forms.built(form) if step.form == "Built" else form, name=name, **options)


def name_of(place: int, step: Step) -> str:
    """Return the name of a step's stage; of a mix, that of the branch which has the poison."""
    return f"s{place}" if step.form != "Mix" else f"s{place}b"


def _mix(form: forms.Form, options: dict[str, Any]) -> Mix:
    base = form.name[:-1]
    plain = replace(form, poison={})
    merge_options = {name: options[name] for name in ("on_error", "error_handler") if name in options}
    branches = [
        stage(
            forms.Filter(**{**vars(plain), "name": f"{base}a", "number": form.number + 4}), name=f"{base}a", **options
        ),
        stage(forms.Plain(**vars(form)), name=form.name, **options),
        stage(forms.Failing(**{**vars(plain), "name": f"{base}c"}), name=f"{base}c", **options),
    ]
    return mix(
        *branches, merge=stage(forms.Merge(**{**vars(plain), "name": base, "cost_s": 0.0}), name=base, **merge_options)
    )
