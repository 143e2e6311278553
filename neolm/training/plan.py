"""What a training will take: FLOPs, time, energy and carbon, from assumptions that are stated beside them.

FLOPs are counted as PaLM counts them (Chowdhery et al. 2022, appendix B), by which MFU is defined; 6ND, the count that
papers before it quote (Kaplan et al. 2020, section 2.1), stands beside. Energy and carbon follow Patterson et al. 2021:
devices x hours x mean watts x PUE, and the carbon of a kilowatt-hour where the machines stand.

Left out: validations, checkpoints, what fails and is done again, and the making of the machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from neolm.core.config import Config, Unit, validate
from neolm.models.config import DecoderConfig
from neolm.training.pretrain_config import PretrainConfig

PF_DAY = 1e15 * 86400  # a petaFLOP/s for a day


class Assumptions(Config):
    """Where a training is to run, and how well."""

    accelerator: Literal["v100", "a100", "h100", "h200"] | None = None
    """The kind of device; null: this machine."""
    devices: Annotated[int, Field(gt=0)] = 1
    """How many of them."""
    device_tflops: Annotated[float, Field(gt=0), Unit("TFLOP/s")] | None = None
    """Peak of one device; null: the accelerator's, or what this machine's matrix products reach now."""
    mfu: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of the peak that becomes the model's FLOPs."""
    watts: Annotated[float, Field(gt=0), Unit("W")] | None = None
    """Mean power of one device with its share of the host; null: the accelerator's, or an estimate for this machine."""
    pue: Annotated[float, Field(ge=1)] = 1.1
    """Power usage effectiveness: the energy of the whole site over that of its computers; Patterson et al. 2021 have
    1.1 for GPT-3."""
    grid_intensity: Annotated[float, Field(ge=0), Unit("kg CO2e/kWh")] = 0.429
    """Carbon of the electricity; Patterson et al. 2021 have 0.429 for GPT-3, the average of the United States."""


def assumptions(**fields: Any) -> Assumptions:
    """`Assumptions` of the fields that are not None.

    Raises:
        InputError: a value out of range, or an unknown accelerator.
    """
    return validate(Assumptions, {key: value for key, value in fields.items() if value is not None}, {})


@dataclass(frozen=True)
class Device:
    """What a plan counts with: FLOP/s at the peak and mean watts of one device, and where both come from."""

    title: str
    flops: float
    flops_source: str
    watts: float
    watts_source: str


@dataclass(frozen=True)
class Plan:
    """The size of a training."""

    parameters: int
    non_embedding_parameters: int
    steps: int
    tokens: int
    flops: float
    """By PaLM's count: products with weights and attention, forwards and backwards."""
    seconds: float
    kwh: float
    """With the site's overhead."""
    kilograms: float
    """Of CO2 equivalent."""

    @property
    def six_nd(self) -> float:
        """6 x parameters x tokens, in FLOPs."""
        return 6.0 * self.parameters * self.tokens


def make_plan(
    model: DecoderConfig, parameters: tuple[int, int], config: PretrainConfig, device: Device, chosen: Assumptions
) -> Plan:
    """The plan of training `model`, which has `parameters` (all, without embeddings), on `chosen.devices` devices."""
    tokens = config.total_examples * config.sequence_length
    flops = model.flops_per_token(config.sequence_length) * tokens
    seconds = flops / (chosen.devices * device.flops * chosen.mfu)
    kwh = seconds / 3600 * chosen.devices * device.watts * chosen.pue / 1000
    return Plan(*parameters, config.total_steps, tokens, flops, seconds, kwh, kwh * chosen.grid_intensity)
