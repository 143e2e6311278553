"""Plan of a training: FLOPs, time, energy and carbon, from stated assumptions.

FLOPs are counted as in PaLM (Chowdhery et al. 2022, appendix B), by which MFU is defined. 6ND, the count that earlier
papers quote (Kaplan et al. 2020, section 2.1), is given too. Energy and carbon follow Patterson et al. 2021: devices x
hours x mean watts x PUE, and the carbon intensity of the electricity.

Left out: validations, checkpoints, failures and repeated work, and the manufacture of the machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from neolm.core.config import Config, Unit, validate
from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.scaling.accelerators import Accelerator
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.pretrain_task import total_cost

PF_DAY = 1e15 * 86400  # FLOPs of a petaFLOP/s for a day


class Assumptions(Config):
    """Where a training runs, and how well."""

    accelerator: Literal["v100", "a100-40gb", "a100", "h100", "h200"] | None = None
    """Kind of device; null: this machine."""
    devices: Annotated[int, Field(gt=0, le=10**9)] | None = None
    """Number of devices; null: those that one copy of the model needs."""
    device_tflops: Annotated[float, Field(ge=1e-6, le=1e9), Unit("TFLOP/s")] | None = None
    """Peak of one device; null: the accelerator's, or the speed of matrix products on this machine now."""
    mfu: Annotated[float, Field(ge=1e-6, le=1)] | None = None
    """Model FLOPs utilisation: share of the peak that is reached in all; null: estimated from `efficiency` and
    communication."""
    efficiency: Annotated[float, Field(ge=1e-6, le=1)] = 0.4
    """Share of the peak that a device reaches while it computes, recomputation included."""
    link_bandwidth: Annotated[float, Field(ge=1e-6, le=1e9), Unit("GB/s")] | None = None
    """Of a device to the others of its node, in one direction; null: the accelerator's."""
    network_bandwidth: Annotated[float, Field(ge=1e-6, le=1e9), Unit("GB/s")] | None = None
    """Of a device to other nodes, in one direction; null: the accelerator's."""
    node: Annotated[int, Field(gt=0, le=10**6)] = 8
    """Devices of a node."""
    watts: Annotated[float, Field(gt=0, le=1e9), Unit("W")] | None = None
    """Mean power of one device with its share of the host; null: the accelerator's, or an estimate for this machine."""
    pue: Annotated[float, Field(ge=1, le=100)] = 1.1
    """Power usage effectiveness: energy of the data centre over energy of its computers; 1.1 for GPT-3 (Patterson et
    al. 2021)."""
    grid_intensity: Annotated[float, Field(ge=0, le=100), Unit("kg CO2e/kWh")] = 0.429
    """Carbon intensity of the electricity; 0.429, the average of the United States, for GPT-3 (Patterson et al.
    2021)."""


def assumptions(**fields: Any) -> Assumptions:
    """`Assumptions` of the fields that are not None.

    Raises:
        InputError: a value out of range, or an unknown accelerator.
    """
    return validate(Assumptions, {key: value for key, value in fields.items() if value is not None}, {})


@dataclass(frozen=True)
class Plan:
    """The size of a training."""

    parameters: int
    non_embedding_parameters: int
    steps: int
    tokens: int
    """Those of an encoder are the most, since its sequences may be shorter than their length."""
    flops: float
    """As in PaLM: products with weights and in attention, forward and backward."""
    mfu: float
    seconds: float
    kwh: float
    """With the overhead of the data centre."""
    kilograms: float
    """Of CO2 equivalent."""

    @property
    def six_nd(self) -> float:
        """6 x parameters x tokens, in FLOPs."""
        return 6.0 * self.parameters * self.tokens


def make_plan(
    model: DecoderConfig | EncoderConfig,
    parameters: tuple[int, int],
    config: PretrainConfig,
    device: Accelerator,
    chosen: Assumptions,
    estimated_mfu: float | None = None,
) -> Plan:
    """Plan the training of `model` on `chosen.devices` devices; `parameters` are all, and those without embeddings.

    MFU is that of `chosen`, or else the estimated one, or else the efficiency of a device.
    """
    tokens, flops = total_cost(model, config)
    mfu = chosen.mfu or estimated_mfu or chosen.efficiency
    devices = chosen.devices or 1
    seconds = flops / (devices * device.flops * mfu)
    kwh = seconds / 3600 * devices * device.watts * chosen.pue / 1000
    return Plan(*parameters, config.total_steps, tokens, flops, mfu, seconds, kwh, kwh * chosen.grid_intensity)
