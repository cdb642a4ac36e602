"""Whatever happens in whatever order, restarts and crashes included, a keeper answers as a plain model of it would."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from keeper_rig import NAME_CLASS, NAME_MASK, PLENTY, People, Rig

from anwen.errors import BudgetError, RefusedError
from anwen.model import Budget, Counter

LIMIT = 3  # of this keeper, in an hour; the promised budget is twice that
WINDOW_S = 3600

people = st.integers(0, 5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("open"), people, st.sampled_from([NAME_CLASS, NAME_MASK])),
        st.tuples(st.just("delete"), people),
        st.tuples(st.sampled_from(["restart", "crash"])),
        st.tuples(st.just("wait"), st.sampled_from([1, 1800, 3599, 3600, 90_000])),
    ),
    max_size=25,
)


class Model:
    """What should happen, in a few lines."""

    def __init__(self):
        self.now_s, self.deleted = 0, set()
        self.latest = {NAME_CLASS: {}, NAME_MASK: {}}

    def opens(self, person, class_id):
        if person in self.deleted:
            return RefusedError
        seen = {p for p, t in self.latest[class_id].items() if t > self.now_s - WINDOW_S}
        if len(seen | {person}) > LIMIT:
            return BudgetError
        self.latest[class_id][person] = self.now_s
        return None


async def live(folder, history):
    limits = PLENTY | {c: Budget(2 * LIMIT, 10**6) for c in (Counter.OPEN, Counter.LIST)}
    rig = await Rig(folder, limits=limits).start(ceremonies=("record", "mask"))
    rows, model = [People(1) for _ in range(6)], Model()
    for step, *args in history:
        if step == "open":
            expected = model.opens(*args)
            try:
                await rig.ask("open", rows[args[0]].open(bytes(20), classes=(args[1],)), ["a"])
                happened = None
            except (BudgetError, RefusedError) as error:
                happened = type(error)
            assert happened is expected, (step, args)
        elif step == "delete":
            model.deleted.add(args[0])
            await rig.ask("delete", rows[args[0]].delete(), ["a"])
        elif step == "wait":
            model.now_s += args[0]
            rig.clock.now_s += args[0]
        elif step == "restart":
            await rig.restart("a")
        else:  # the folder as a dead machine's disk holds it
            shutil.copytree(rig.path("a"), folder / "copy")
            await rig.keepers["a"].close()
            shutil.rmtree(rig.path("a"))
            (folder / "copy").rename(rig.path("a"))
            rig.open("a")
            await rig.keepers["a"].start()
    await rig.close()


@given(history=steps)
@settings(max_examples=25)
def test_a_keeper_answers_as_its_model_does(history):
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(Path(folder) / "vault", history))
