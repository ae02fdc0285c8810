"""One step to everybody who looks: the late, the slow and the many."""

import asyncio

from mpengine.dashboard import hub as hubs
from mpengine.dashboard.hub import END, KEPT, MAX_VIEWERS, STILL_HERE, Hub
from mpengine.dashboard.wire import Frame, Request


def staged(scene):
    """Run a scene with a hub and the list of what it asks for."""

    async def play():
        asked = []
        await scene(Hub(asked.append), asked)

    asyncio.run(play())


def step(number):
    return b"event: step\ndata: %d\n\n" % number


def feed(hub, numbers):
    for number in numbers:
        hub.take(Frame.STEP, b"%d" % number)


def test_a_viewer_is_told_everything_first_and_every_step_from_then_on():
    async def scene(hub, asked):
        feed(hub, [1])
        hub.take(Frame.FULL, b"all up to 1")
        feed(hub, [2])
        viewer = hub.look()
        retry = await anext(viewer)
        told = [await anext(viewer), await anext(viewer)]
        waiting = asyncio.ensure_future(anext(viewer))
        await asyncio.sleep(0)
        feed(hub, [3])
        told.append(await waiting)
        await viewer.aclose()

        assert retry.startswith(b"retry: ")
        assert told == [b"event: step\ndata: all up to 1\n\n", step(2), step(3)]
        assert asked == [Request(viewers=1), Request(viewers=0)]

    staged(scene)


def test_many_who_come_at_once_are_all_told_by_one_answer_h2():
    async def scene(hub, asked):
        feed(hub, range(KEPT + 5))
        viewers = [hub.look() for _ in range(5)]
        for viewer in viewers:
            await anext(viewer)
        waiting = [asyncio.ensure_future(anext(viewer)) for viewer in viewers]
        await asyncio.sleep(0)
        hub.take(Frame.FULL, b"all")
        told = await asyncio.gather(*waiting)
        for viewer in viewers:
            await viewer.aclose()

        assert told == [b"event: step\ndata: all\n\n"] * 5
        assert asked.count(Request(wants_full=True)) == 1

    staged(scene)


def test_one_who_has_fallen_behind_is_told_the_present_and_not_what_was_in_between_h1():
    async def scene(hub, asked):
        hub.take(Frame.FULL, b"at the beginning")
        viewer = hub.look()
        await anext(viewer)
        await anext(viewer)
        feed(hub, range(1, KEPT + 2))
        waiting = asyncio.ensure_future(anext(viewer))
        await asyncio.sleep(0)
        was_asked = Request(wants_full=True) in asked
        hub.take(Frame.FULL, b"now")
        feed(hub, [1000])
        told = [await waiting, await anext(viewer)]
        await viewer.aclose()

        assert was_asked
        assert told == [b"event: step\ndata: now\n\n", step(1000)]

    staged(scene)


def test_the_last_steps_are_told_before_the_end():
    async def scene(hub, asked):
        hub.take(Frame.FULL, b"begin")
        viewer = hub.look()
        await anext(viewer)
        await anext(viewer)
        feed(hub, [1, 2])
        hub.take(Frame.BYE, b"")
        told = [content async for content in viewer]
        late = [content async for content in hub.look()]

        assert told == [step(1), step(2), END]
        assert late[1:] == [b"event: step\ndata: begin\n\n", step(1), step(2), END]

    staged(scene)


def test_one_who_waits_long_is_told_that_somebody_is_there(monkeypatch):
    monkeypatch.setattr(hubs, "QUIET_S", 0.0)

    async def scene(hub, asked):
        viewer = hub.look()
        await anext(viewer)
        told = await anext(viewer)
        await viewer.aclose()

        assert told == STILL_HERE

    staged(scene)


def test_only_so_many_may_look():
    async def scene(hub, asked):
        viewers = [hub.look() for _ in range(MAX_VIEWERS)]
        before = hub.is_crowded
        for viewer in viewers:
            await anext(viewer)
        then = hub.is_crowded
        await viewers[0].aclose()
        after = hub.is_crowded
        for viewer in viewers[1:]:
            await viewer.aclose()

        assert (before, then, after) == (False, True, False)

    staged(scene)
