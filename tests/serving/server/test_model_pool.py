"""The model pool loads and closes models of any kind, which it knows as servables only."""

from __future__ import annotations

import asyncio
import threading

import pytest

from neolm.core.errors import InputError
from neolm.serving.server.errors import ApiError
from neolm.serving.server.model_pool import ModelPool


class Encoder:
    """A servable without an engine."""

    kind = "encode"

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self.failed = self.broken = False
        self.calls: list[str] = []

    def check(self) -> None:
        if self.broken:
            raise InputError("config.json is missing")

    def start(self) -> None:
        self.failed = False
        self.calls.append("start")

    def close(self) -> None:
        if self.calls and self.calls[-1] == "start":
            self.calls.append("close")


def test_the_least_recently_used_models_are_closed_for_others() -> None:
    async def run() -> None:
        models = [Encoder("a", 4), Encoder("b", 4), Encoder("c", 6)]
        pool = ModelPool(models, 10)
        for name in ("a", "b", "a", "c"):
            async with pool.use(name) as model:
                assert model.name == name
        assert [model.name for model in pool.loaded] == ["a", "c"]
        assert [model.calls for model in models] == [["start"], ["start", "close"], ["start"]]
        pool.close()
        assert pool.loaded == []
        assert models[2].calls == ["start", "close"]

    asyncio.run(run())


def test_preloading_stops_at_the_memory() -> None:
    async def run() -> None:
        pool = ModelPool([Encoder("a", 4), Encoder("b", 8), Encoder("c", 6)], 10)
        await pool.preload()
        assert [model.name for model in pool.loaded] == ["a", "c"]
        assert not pool.preloading

    asyncio.run(run())


def test_a_failed_model_is_closed_and_loaded_again() -> None:
    async def run() -> None:
        model = Encoder("a", 4)
        pool = ModelPool([model], 10)
        async with pool.use("a"):
            model.failed = True
        async with pool.use("a"):
            assert model.calls == ["start", "close", "start"]

    asyncio.run(run())


def test_no_model_is_closed_for_one_that_cannot_be_loaded() -> None:
    async def run() -> None:
        good, broken = Encoder("a", 6), Encoder("b", 6)
        broken.broken = True
        pool = ModelPool([good, broken], 10)
        async with pool.use("a"):
            pass
        with pytest.raises(ApiError, match="b cannot be loaded") as caught:
            async with pool.use("b"):
                pass
        assert (caught.value.status, caught.value.code) == (503, "model_not_loaded")
        assert good.calls == ["start"]

    asyncio.run(run())


def test_a_model_that_waits_for_memory_is_served_before_later_requests() -> None:
    async def run() -> None:
        pool = ModelPool([Encoder("a", 6), Encoder("b", 6)], 10)
        order: list[str] = []

        async def use(name: str) -> None:
            async with pool.use(name):
                order.append(name)

        async with pool.use("a"):
            waiting = asyncio.create_task(use("b"))
            while pool._blocked is None:
                await asyncio.sleep(0.01)
            later = asyncio.create_task(use("a"))
            await asyncio.sleep(0.01)
            assert order == []
        await asyncio.gather(waiting, later)
        assert order == ["b", "a"]

    asyncio.run(run())


def test_a_cancelled_request_does_not_stop_the_loading_for_others() -> None:
    async def run() -> None:
        model, gate = Encoder("a", 4), threading.Event()
        model.start = gate.wait  # type: ignore[assignment]
        pool = ModelPool([model], 10)

        async def use() -> str:
            async with pool.use("a") as used:
                return used.name

        leaving, staying = asyncio.create_task(use()), asyncio.create_task(use())
        await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.wait({leaving})
        gate.set()
        assert await staying == "a"
        assert leaving.cancelled()

    asyncio.run(run())


def test_names_and_sizes_are_checked() -> None:
    with pytest.raises(InputError, match="two models are called a; give them names"):
        ModelPool([Encoder("a", 1), Encoder("a", 1)], 10)
    with pytest.raises(InputError, match=r"a takes .* are for models"):
        ModelPool([Encoder("a", 11)], 10)
    with pytest.raises(ApiError, match="'b' does not exist here; available: a"):
        ModelPool([Encoder("a", 1)], 10).find("b")
