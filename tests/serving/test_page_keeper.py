"""Pages are never lost, never given twice, and found again only by exactly what they hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neolm.serving.page_keeper import BLOCK_SIZE, PageKeeper

COUNT = 12
# Few different pages of tokens, so that texts often begin alike.
TEXTS = st.lists(st.integers(0, 1), max_size=5).map(lambda kinds: [kind for kind in kinds for _ in range(BLOCK_SIZE)])


class Keeping(RuleBasedStateMachine):
    """Texts come and go as in the engine; a model of what each page holds says what may be found."""

    def __init__(self) -> None:
        super().__init__()
        self.keeper = PageKeeper(COUNT)
        self.texts: list[list[int]] = []  # pages of each text
        self.holds: dict[int, tuple[int, ...]] = {}  # the tokens up to the end of each page

    @rule(ids=TEXTS, tail=st.integers(1, BLOCK_SIZE))
    def come(self, ids: list[int], tail: int) -> None:
        text = [*ids, *[7] * tail]
        pages, serial = self.keeper.find(text)
        for number, page in enumerate(pages):
            assert self.holds[page] == tuple(text[: (number + 1) * BLOCK_SIZE])
        assert len(pages) * BLOCK_SIZE < len(text)
        missing = -(-len(text) // BLOCK_SIZE) - len(pages)
        if missing > self.keeper.free:
            self.keeper.release(pages)
            return
        self.keeper.reserved += missing
        for number in range(len(pages), len(pages) + missing):
            page = self.keeper.take()
            assert all(page not in other for other in self.texts)
            pages.append(page)
            end = (number + 1) * BLOCK_SIZE
            self.holds[page] = tuple(text[:end])
            if end <= len(text):
                serial = self.keeper.remember(page, serial, text[number * BLOCK_SIZE : end])
        self.texts.append(pages)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.keeper.release(self.texts.pop(data.draw(st.integers(0, len(self.texts) - 1))))

    @invariant()
    def every_page_is_somewhere(self) -> None:
        held = {page for pages in self.texts for page in pages}
        assert self.keeper.free == COUNT - len(held)


TestKeeping = Keeping.TestCase
TestKeeping.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def fill(keeper: PageKeeper, ids: list[int]) -> list[int]:
    pages, serial = keeper.find([*ids, 0])
    keeper.reserved += len(ids) // BLOCK_SIZE - len(pages)
    for start in range(len(pages) * BLOCK_SIZE, len(ids), BLOCK_SIZE):
        page = keeper.take()
        serial = keeper.remember(page, serial, ids[start : start + BLOCK_SIZE])
        pages.append(page)
    return pages


def test_the_longest_unused_goes_first_and_the_end_of_a_text_before_its_beginning() -> None:
    keeper = PageKeeper(4)
    old, new = [1] * BLOCK_SIZE * 2, [2] * BLOCK_SIZE * 2
    keeper.release(fill(keeper, old))
    keeper.release(fill(keeper, new))
    keeper.reserved += 1
    keeper.take()
    assert [len(keeper.find([*ids, 0])[0]) for ids in (old, new)] == [1, 2]


def test_whole_pieces_only() -> None:
    keeper = PageKeeper(8)
    fill(keeper, [1] * BLOCK_SIZE * 5)
    assert [len(keeper.find([1] * BLOCK_SIZE * 5 + [0], whole * BLOCK_SIZE)[0]) for whole in (1, 2, 4, 8)] == [
        5,
        4,
        4,
        0,
    ]
