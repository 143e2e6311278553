"""Allocation of KV cache blocks, with automatic prefix caching (as in vLLM).

A full block can be found again by its 16 tokens and all tokens before them, within one cache salt. A cached block that
no request uses stays until its memory is needed; the least recently used one is evicted first. Blocks are numbers here,
not tensors.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from neolm.kernels.attention import BLOCK_SIZE

PrefixId = int | str  # of a cached block; before the first block of a text it is the text's cache salt
Key = tuple[PrefixId, tuple[int, ...]]  # prefix id of the block before, and the block's tokens


class BlockManager:
    """Blocks 0 to `num_blocks` - 1; `num_reserved` of the free ones are promised to requests that run."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks, self.num_reserved = num_blocks, 0
        self._empty = deque(range(num_blocks))
        self._ref_counts = [0] * num_blocks
        self._evictable: OrderedDict[int, None] = OrderedDict()  # cached and unused, least recently used first
        self._cached: dict[Key, int] = {}
        self._keys: dict[int, tuple[Key, int]] = {}  # key and prefix id of each cached block
        self._last_prefix_id = 0

    @property
    def num_free(self) -> int:
        """Number of blocks that can be reserved."""
        return len(self._empty) + len(self._evictable) - self.num_reserved

    def match_prefix(
        self, token_ids: Sequence[int], multiple: int = BLOCK_SIZE, salt: str = ""
    ) -> tuple[list[int], PrefixId]:
        """Take the cached blocks of the longest prefix of `token_ids`; at least one token is always left over.

        Returns the blocks, which hold a multiple of `multiple` tokens, and the prefix id of the last one.
        """
        blocks: list[int] = []
        prefix_ids: list[PrefixId] = [salt]
        for start in range(0, (len(token_ids) - 1) // BLOCK_SIZE * BLOCK_SIZE, BLOCK_SIZE):
            block = self._cached.get((prefix_ids[-1], tuple(token_ids[start : start + BLOCK_SIZE])))
            if block is None:
                break
            blocks.append(block)
            prefix_ids.append(self._keys[block][1])
        del blocks[len(blocks) * BLOCK_SIZE // multiple * multiple // BLOCK_SIZE :]
        for block in blocks:
            self._ref_counts[block] += 1
            self._evictable.pop(block, None)
        return blocks, prefix_ids[len(blocks)]

    def allocate(self) -> int:
        """Return an empty block out of those reserved; evict a cached one if none is empty."""
        assert self.num_reserved > 0
        self.num_reserved -= 1
        if self._empty:
            block = self._empty.popleft()
        else:
            block, _ = self._evictable.popitem(last=False)
            key, _ = self._keys.pop(block)
            del self._cached[key]
        self._ref_counts[block] = 1
        return block

    def cache(self, block: int, prefix_id: PrefixId, token_ids: Sequence[int]) -> PrefixId:
        """Cache a full block and return its prefix id; if an equal block is cached, that one stays cached."""
        key = (prefix_id, tuple(token_ids))
        cached = self._cached.get(key)
        if cached is not None:
            return self._keys[cached][1]
        self._last_prefix_id += 1
        self._cached[key] = block
        self._keys[block] = key, self._last_prefix_id
        return self._last_prefix_id

    def free(self, blocks: Sequence[int]) -> None:
        """Release the blocks of a request; the last of them is evicted first."""
        for block in reversed(blocks):
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                if block in self._keys:
                    self._evictable[block] = None
                else:
                    self._empty.append(block)
