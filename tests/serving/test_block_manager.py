"""Blocks are never lost, never allocated twice, and found again only by the tokens and the salt that they hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neolm.serving.block_manager import BLOCK_SIZE, BlockManager

COUNT = 12
# Few different blocks of tokens, so that texts often share a prefix.
TEXTS = st.lists(st.integers(0, 1), max_size=5).map(lambda kinds: [kind for kind in kinds for _ in range(BLOCK_SIZE)])


class BlockMachine(RuleBasedStateMachine):
    """Texts come and go as in the engine; `holds` is the expected content of each block."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = BlockManager(COUNT)
        self.texts: list[list[int]] = []  # blocks of each text
        self.holds: dict[int, tuple[str, list[int]]] = {}  # the salt, and the tokens up to the end of each block

    @rule(ids=TEXTS, tail=st.integers(1, BLOCK_SIZE), salt=st.sampled_from(["", "a", "b"]))
    def add(self, ids: list[int], tail: int, salt: str) -> None:
        text = [*ids, *[7] * tail]
        blocks, prefix_id = self.manager.match_prefix(text, salt=salt)
        for number, block in enumerate(blocks):
            assert self.holds[block] == (salt, text[: (number + 1) * BLOCK_SIZE])
        assert len(blocks) * BLOCK_SIZE < len(text)
        missing = -(-len(text) // BLOCK_SIZE) - len(blocks)
        if missing > self.manager.num_free:
            self.manager.free(blocks)
            return
        self.manager.num_reserved += missing
        for number in range(len(blocks), len(blocks) + missing):
            block = self.manager.allocate()
            assert all(block not in other for other in self.texts)
            blocks.append(block)
            end = (number + 1) * BLOCK_SIZE
            self.holds[block] = salt, text[:end]
            if end <= len(text):
                prefix_id = self.manager.cache(block, prefix_id, text[number * BLOCK_SIZE : end])
        self.texts.append(blocks)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.manager.free(self.texts.pop(data.draw(st.integers(0, len(self.texts) - 1))))

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        held = {block for blocks in self.texts for block in blocks}
        assert self.manager.num_free == COUNT - len(held)


TestBlocks = BlockMachine.TestCase
TestBlocks.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def fill(manager: BlockManager, ids: list[int]) -> list[int]:
    blocks, prefix_id = manager.match_prefix([*ids, 0])
    manager.num_reserved += len(ids) // BLOCK_SIZE - len(blocks)
    for start in range(len(blocks) * BLOCK_SIZE, len(ids), BLOCK_SIZE):
        block = manager.allocate()
        prefix_id = manager.cache(block, prefix_id, ids[start : start + BLOCK_SIZE])
        blocks.append(block)
    return blocks


def test_the_least_recently_used_block_is_evicted_first_and_the_end_of_a_text_before_its_beginning() -> None:
    manager = BlockManager(4)
    old, new = [1] * BLOCK_SIZE * 2, [2] * BLOCK_SIZE * 2
    manager.free(fill(manager, old))
    manager.free(fill(manager, new))
    manager.num_reserved += 1
    manager.allocate()
    assert [len(manager.match_prefix([*ids, 0])[0]) for ids in (old, new)] == [1, 2]


def test_the_prefix_holds_whole_multiples_only() -> None:
    manager = BlockManager(8)
    token_ids = [1] * BLOCK_SIZE * 5
    fill(manager, token_ids)
    found = [len(manager.match_prefix([*token_ids, 0], whole * BLOCK_SIZE)[0]) for whole in (1, 2, 4, 8)]
    assert found == [5, 4, 4, 0]
