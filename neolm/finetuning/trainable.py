"""What of a model is trained: all of it, LoRA adapters and the head, or the layers above the frozen ones."""

from __future__ import annotations

from pathlib import Path

from neolm.core.errors import SettingError
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.heads import TextModel
from neolm.models.adapter_files import save_adapter
from neolm.models.adapters import add_lora, lora_layers, merge_lora
from neolm.models.encoder_config import EncoderConfig

EMBEDDINGS = ("embedding", "positions", "token_types", "projection")
"""The first part of the names of what is below the blocks, with `embedding_norm`."""


def freeze(model: TextModel, config: FinetuneConfig, seed: int) -> TextModel:
    """Freeze what the settings say is not trained; with method lora, add adapters.

    Raises:
        SettingError: there are fewer layers than are to be frozen, or LoRA's settings do not fit the model.
    """
    if config.method == "lora":
        lora = config.lora
        try:
            return add_lora(model, lora.rank, lora.alpha, lora.dropout, lora.targets, seed)
        except SettingError as error:
            raise error.within("lora") from None
    if config.frozen_layers is None:
        return model
    blocks = len(model.blocks)
    if config.frozen_layers >= blocks:
        raise SettingError(
            "frozen_layers",
            f"{config.frozen_layers} of {blocks} layers with parameters of their own; one must be left to train, and "
            "finetune.method=probe trains none",
        )
    if config.frozen_layers and isinstance(model.config, EncoderConfig) and model.config.shares:
        raise SettingError(
            "frozen_layers", "the layers of this model share their parameters, so only the embeddings (0) can be frozen"
        )
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        below = parts[0].startswith(EMBEDDINGS) or (parts[0] == "blocks" and int(parts[1]) < config.frozen_layers)
        parameter.requires_grad_(not below)
    return model


def merged(model: TextModel) -> TextModel:
    """The model with its adapters, if it has any, in its weights.

    Raises:
        InputError: it would not compute the same.
    """
    if lora_layers(model):
        merge_lora(model)
    return model


def write_adapter(model: TextModel, directory: Path, base: Path) -> None:
    """Write the adapters, if there are any, to the folder `adapter` of a model directory."""
    if lora_layers(model):
        save_adapter(model, directory / "adapter", str(base))
