"""A model in files: its tensors are matched with our parameters, checked, and loaded one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neolm.core.config import validate
from neolm.core.device import free_memory
from neolm.core.errors import InputError
from neolm.core.model_files import CONFIG_FILE
from neolm.core.progress import gibibytes, say, task
from neolm.kernels.packing import largest_weight
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder, count_parameters
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import EncoderConfig
from neolm.models.families import ENCODERS, FAMILIES
from neolm.models.families.family import Copy, Rule
from neolm.models.hf_config import read_bits, read_config, require_language_model
from neolm.models.hf_files import FLOATS, WeightFiles, listing
from neolm.models.hf_names import canonical_name, copies, gather, old_spellings, rule_of, wrappers
from neolm.models.quantized import PACKED_MODULES, is_packed, own_tensors, prepare_quantized, set_tensor
from neolm.models.stored_head import with_stored_head
from neolm.models.weight_storage import DiskStorage, HugePages

DTYPE_NAMES = tuple(str(dtype).removeprefix("torch.") for dtype in FLOATS.values())
PROGRESS_WEIGHTS = 1e9  # a progress bar is shown from this many weights on


class StoredModel:
    """A model in a directory, checked but not loaded: every parameter has its tensors, with the right shapes.

    `device`, `dtype` and `bits` are those that it is loaded with. None: the CPU, the stored type, the stored bits. If
    the CPU is given, float16 is loaded as float32, because it is slow there.
    """

    def __init__(
        self,
        directory: Path,
        device: torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        bits: int | None = None,
    ) -> None:
        self.directory, self.device = directory, device or torch.device("cpu")
        config, self.bits, self.files = read_config(directory), read_bits(directory), WeightFiles(directory)
        self.config = with_stored_head(config, self.files)
        if bits and self.bits and bits != self.bits:
            raise InputError(f"{directory}: the weights are quantised to {self.bits} bits, not {bits}")
        if self.config.num_layers > len(self.files.shapes):  # before the layers are built
            raise InputError(
                f"{directory}: {CONFIG_FILE} describes num_layers {self.config.num_layers}, but the weight files hold "
                f"only {len(self.files.shapes)} tensors"
            )
        with torch.device("meta"):
            self.skeleton = build(self.config)
        if self.bits:
            prepare_quantized(self.skeleton, self.bits)
            shapes = {name: tensor.shape for name, tensor in own_tensors(self.skeleton)}
            _check_shapes(self.files, shapes, {name: name for name in self.files.shapes}, self.config)
            self.rules = [Rule(name, (name,)) for name in shapes]
        else:
            shapes = {name: parameter.shape for name, parameter in self.skeleton.named_parameters()}
            self.rules = _match(self.config, shapes, self.files)
        packed = self.skeleton.state_dict()
        for name in (name for rule in self.rules for name in rule.theirs):
            allowed = (packed[name].dtype,) if self.bits and is_packed(name) else tuple(FLOATS.values())
            _check_type(self.files, name, allowed)
        types = [self.files.dtypes[name] for rule in self.rules for name in rule.theirs if not is_packed(name)]
        stored: torch.dtype = reduce(torch.promote_types, types)  # type: ignore[arg-type, assignment]
        slow = stored == torch.float16 and device is not None and device.type == "cpu"
        self.dtype = parse_dtype(dtype) or (torch.float32 if slow else stored)
        self.quantizes = None if self.bits else bits
        """Bits that the weights are quantised to when they are loaded."""
        if self.quantizes:
            prepare_quantized(self.skeleton, self.quantizes)
            self.bits = self.quantizes

    @property
    def decoder_config(self) -> DecoderConfig:
        """The configuration of a model that writes text. Raises `InputError` for an encoder or a classifier."""
        return require_language_model(self.config, str(self.directory))

    @property
    def encoder_config(self) -> EncoderConfig:
        """The configuration of a model that reads text. Raises `InputError` for a decoder."""
        if isinstance(self.config, DecoderConfig):
            raise InputError(
                f"{self.directory}: this {FAMILIES[self.config.family].title} is a decoder and has no embeddings of "
                "texts. Give an encoder, such as a BERT"
            )
        return self.config

    @property
    def size(self) -> int:
        """Bytes of memory that it takes when it is loaded."""
        tensors = {id(tensor): (name, tensor) for name, tensor in self.skeleton.state_dict(keep_vars=True).items()}
        types = ((tensor.dtype if is_packed(name) else self.dtype, tensor) for name, tensor in tensors.values())
        return sum(dtype.itemsize * tensor.numel() for dtype, tensor in types)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return parameter_count(self.config)

    def load(self, offload: bool = False, check: bool = False) -> Decoder | Encoder:
        """Load one parameter at a time: memory holds the weights once.

        Args:
            offload: Leave the weights on disk.
            check: Refuse weights that are not finite in the type that they get. Quantised models are always checked,
                because quantisation makes ordinary numbers of NaN and infinity.

        Raises:
            InputError: the model does not fit the memory, or the check fails.
        """
        model, store = self.skeleton, self._storage(offload)
        sizes = [sum(math.prod(self.files.shapes[name]) for name in rule.theirs) for rule in self.rules]
        with task("Loading", sum(sizes), "weights") if sum(sizes) > PROGRESS_WEIGHTS else nullcontext() as progress:
            for rule, size in zip(self.rules, sizes, strict=True):
                tensor = self.read(rule, self._largest(rule) if check or self.bits else None)
                set_tensor(model, rule.ours, tensor, self.device, self.dtype, store)
                if progress is not None:
                    progress.advance(size)
        model.tie()
        return model.eval()

    def read(self, rule: Rule, largest: float | None = None) -> Tensor:
        """One parameter in our layout.

        With `largest`, an `InputError` is raised if a number is not finite, or larger than that in size.
        """
        tensors = []
        for name in rule.theirs:
            tensors.append(self.files.read(name))
            if largest is not None:
                _check_numbers(self.files, name, tensors[-1], largest)
        return gather(rule, tensors, self.config.num_heads)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Name and values in float32 of each parameter of a model that is not quantised, read one at a time."""
        for rule in self.rules:
            yield rule.ours, self.read(rule).float()

    def _largest(self, rule: Rule) -> float:
        """The largest number that the parameter of `rule` can hold when it is loaded."""
        module = self.skeleton.get_submodule(rule.ours.rpartition(".")[0])
        if self.quantizes and rule.ours.endswith(".weight") and isinstance(module, PACKED_MODULES):
            return largest_weight(self.quantizes)
        return torch.finfo(self.dtype).max

    def _storage(self, offload: bool) -> Callable[[Tensor], Tensor]:
        """Memory for the loaded weights, which must fit."""
        needed, device = self.size, self.device
        free = free_memory(str(device)) if device.type in ("cpu", "cuda") else needed
        if not offload and needed > free:
            raise InputError(
                f"{self.directory}: the model takes {gibibytes(needed)} of memory and {gibibytes(free)} are "
                "free; int4 weights (--quantize int4) take least, --offload disk runs it slowly"
            )
        if not offload:
            return HugePages().store
        if device.type != "cpu":
            raise InputError(f"offload: weights on disk work on a CPU only, not on {device}")
        disk = DiskStorage(needed)
        slow = "" if needed < free else f"; {gibibytes(free)} of memory are free, so every token reads the rest again"
        say(f"offload: {gibibytes(needed)} of weights in {disk.folder}{slow}")
        return disk.store


def recorded_config(record: Mapping[str, Any]) -> DecoderConfig | EncoderConfig:
    """The configuration that the manifest of a training holds. Raises `InputError` if another version wrote it."""
    if record.get("family") in ENCODERS:
        return validate(EncoderConfig, record, {})
    return validate(DecoderConfig, record, {})


def build(config: DecoderConfig | EncoderConfig) -> Decoder | Encoder:
    """A model of any family, with random weights."""
    return Decoder(config) if isinstance(config, DecoderConfig) else Encoder(config)


def build_unfilled(config: DecoderConfig | EncoderConfig) -> Decoder | Encoder:
    """A model whose weights are still to be written: their memory on the CPU is reserved, and not used before that."""
    with torch.device("meta"):
        model = build(config)
    model.to_empty(device="cpu")
    model.tie()
    return model


def parameter_count(config: DecoderConfig | EncoderConfig, embeddings: bool = True) -> int:
    """`build(config).parameter_count(embeddings)`, without the model."""
    if isinstance(config, DecoderConfig):
        return count_parameters(config, embeddings)
    with torch.device("meta"):
        return Encoder(config).parameter_count(embeddings)


def _match(config: DecoderConfig | EncoderConfig, shapes: dict[str, torch.Size], files: WeightFiles) -> list[Rule]:
    """Rules of all parameters, with the names of the tensors as they are in the files."""
    found: dict[str, str] = {}
    if ignored := {part for name in files.shapes for part in wrappers(name)}:
        say(f"{files.directory}: {listing(sorted(ignored))} is ignored in the names of the tensors")
    family = FAMILIES[config.family]
    if family.kind == "encoder" and any(map(old_spellings, files.shapes)):
        say(f"{files.directory}: gamma and beta in the names of the tensors are read as weight and bias")
    for name in files.shapes:
        canonical = canonical_name(family, name)
        if canonical in found:
            raise InputError(f"{files.directory}: {listing([found[canonical], name])} are the same tensor of the model")
        if canonical is not None:
            found[canonical] = name
    rules = [rule_of(config, ours) for ours in shapes]
    for copy in copies(config):
        _resolve_copy(copy, found, files, untied=family.kind == "decoder")
    expected = {theirs: rule.shape(shapes[rule.ours]) for rule in rules for theirs in rule.theirs}
    if family.kind == "encoder":  # programs add heads of their own
        others = [name for name in found if name not in expected and not name.startswith(family.prefix)]
        if others:
            say(f"{files.directory}: {_tensors(others)} of other heads and left out: {listing(others)}")
        found = {name: place for name, place in found.items() if name not in others}
    _check_shapes(files, expected, found, config)
    return [replace(rule, theirs=tuple(found[theirs] for theirs in rule.theirs)) for rule in rules]


def _check_shapes(
    files: WeightFiles,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, str],
    config: DecoderConfig | EncoderConfig,
) -> None:
    """Compare the expected shapes with those in the files; `found` maps expected names to the files' names."""
    missing = [name for name in expected if name not in found]
    if missing:
        raise InputError(f"{files.directory}: {_tensors(missing)} missing: {listing(missing)}")
    unexpected = [found[name] for name in found if name not in expected]
    if unexpected:
        raise InputError(
            f"{files.directory}: {_tensors(unexpected)} not part of the {config.family} that {CONFIG_FILE} "
            f"describes: {listing(unexpected)}"
        )
    for theirs, shape in expected.items():
        name = found[theirs]
        if files.shapes[name] != shape:
            raise InputError(
                f"{files.directory}: {listing([name])} has the shape {list(files.shapes[name])}, "
                f"but by {CONFIG_FILE} it must be {list(shape)}"
            )


def _resolve_copy(same: Copy, found: dict[str, str], files: WeightFiles, untied: bool) -> None:
    """Remove a copy of another tensor from `found`; if a file has only the copy, it is used as the original.

    `untied` says whether the family has models in which the two differ.
    """
    original = same.original
    if same.name not in found:
        return
    copy = found.pop(same.name)
    if original not in found:
        found[original] = copy
        return
    names = copy, found[original]
    for one in names:
        _check_type(files, one, tuple(FLOATS.values()))
    tensors = [files.read(one) for one in names]
    if not torch.equal(*tensors):
        for one, tensor in zip(names, tensors, strict=True):
            _check_numbers(files, one, tensor, math.inf)
        advice = "; if they are meant to differ, set tie_word_embeddings to false there" if untied else ""
        raise InputError(
            f"{files.directory}: {copy} differs from {found[original]}, but {CONFIG_FILE} ties them{advice}"
        )


def _check_type(files: WeightFiles, name: str, allowed: tuple[torch.dtype, ...]) -> None:
    if files.dtypes[name] not in allowed:
        shown = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise InputError(f"{files.directory}: the type of {listing([name])} is not one of {shown}")


def _check_numbers(files: WeightFiles, name: str, tensor: Tensor, largest: float) -> None:
    """Refuse numbers that are not finite, or larger than `largest` in size."""
    low, high = (float(bound) for bound in tensor.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(
            f"{files.directory}: its weights are damaged: {name} holds a NaN or an infinity; "
            "fetch the model again, or export an earlier checkpoint"
        )
    if max(-low, high) > largest:
        raise InputError(
            f"{files.directory}: {name} has a weight of {max(low, high, key=abs):g}, which is too large for the "
            f"requested type: it holds numbers up to {largest:,.0f}"
        )


def _tensors(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def parse_dtype(request: str | torch.dtype | None) -> torch.dtype | None:
    """The torch type of a name such as "bfloat16"; None for None. Raises `InputError` for any other name."""
    if request is None:
        return None
    name = str(request).removeprefix("torch.")
    if name not in DTYPE_NAMES:
        raise InputError(f"dtype: {name} is not supported for weights; use one of {', '.join(DTYPE_NAMES)}")
    return getattr(torch, name)  # type: ignore[no-any-return]
