"""The ranks of a run meet, compare what they run, and say who is missing; each rank is a thread here."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from neolm.core.errors import InputError
from neolm.distributed.ranks import LostRankError, Ranks


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(act: Callable[[Ranks], Any], ranks: int = 3) -> list[Any]:
    """What `act` returns on each rank, or raises."""
    port = free_port()

    def one(rank: int) -> Any:
        joined = Ranks(20.0, environment(rank, ranks, port))
        try:
            return act(joined)
        except (Exception, SystemExit) as error:
            return error
        finally:
            joined.close(3)

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(one, range(ranks)))


def test_another_setting_is_named_with_its_rank() -> None:
    def act(ranks: Ranks) -> None:
        ranks.compare({"recipe": {"seed": 1, "pretrain": {"steps": 10 + (ranks.number == 2)}}, "code": "abc"})

    for error in together(act):
        assert isinstance(error, InputError)
        assert str(error).startswith("rank 2 has another recipe than rank 0: pretrain.steps is 11 instead of 10")


def test_all_hear_rank_0_until_it_ends_with_its_exit_code() -> None:
    def act(ranks: Ranks) -> Any:
        ranks.compare({"recipe": {"seed": 1}})
        if ranks.first:
            ranks.tell({"stage": "pretrain"})
            ranks.tell({"exit": 2})
            return None
        heard = ranks.heard()
        assert next(heard) == {"stage": "pretrain"}
        return next(heard)

    first, *others = together(act)
    assert first is None
    assert all(isinstance(other, SystemExit) and other.code == 2 for other in others)


def test_an_error_of_all_ranks_is_reported_by_one() -> None:
    assert sum(together(lambda ranks: ranks.reports("the same"))) == 1
    assert sum(together(lambda ranks: ranks.reports(f"of {ranks.number}"))) == 3


def test_ranks_that_do_not_come_are_named() -> None:
    with pytest.raises(LostRankError, match=r"ranks 1, 2 of 3 did not come within 0\.3 s"):
        Ranks(0.3, environment(0, 3, free_port()))


def test_a_port_in_use() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"MASTER_PORT: {port} is in use by another program; choose another port"):
            Ranks(1.0, environment(0, 2, port))


def test_rank_0_that_cannot_be_reached() -> None:
    port = free_port()
    with pytest.raises(LostRankError, match=rf"rank 0 cannot be reached at 127\.0\.0\.1:{port}"):
        Ranks(0.5, environment(1, 2, port))
