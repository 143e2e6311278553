r"""The chat template, here and nowhere else, so that every room gives a conversation the same token ids.

It is plain text, for models that have only been pretrained:

    <|endoftext|>User: Who are you?
    Assistant: A small model.
    User:

Each turn is encoded on its own: what has been said keeps its ids when the conversation goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from neolm.tokenizer.tokenizer import Tokenizer

STOP = ("\nUser:",)  # the model begins to speak for the user: its answer is over


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str

    @property
    def rendered(self) -> str:
        """The turn in the template, from the end of the turn before it; a user's turn opens the assistant's."""
        return f"User: {self.text}\nAssistant:" if self.role == "user" else f" {self.text}\n"


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Token ids of `messages`, user and assistant in turn, after the end-of-text token that begins a document."""
    turns = tokenizer.encode_batch([message.rendered for message in messages])
    return [tokenizer.eos_token_id, *(token for turn in turns for token in turn)]
