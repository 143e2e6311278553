import torch

from neolm.data.batch import Batch


def test_tokens_are_those_that_are_no_padding() -> None:
    ids = torch.zeros(2, 4, dtype=torch.int64)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    assert Batch({"input_ids": ids}).tokens == 8
    assert Batch({"input_ids": ids, "attention_mask": mask}).tokens == 4
    assert [part.tokens for part in Batch({"input_ids": ids, "attention_mask": mask}).split(1)] == [3, 1]
