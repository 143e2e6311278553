"""How much memory a training takes on one device, without running it: what is alive at each moment of a step, in bytes.

The moments are those at which `neolm.training.loop` and the loss, the optimisers and the checkpoints that it calls hold
most; the largest of them is the training's peak. Two things come on top: what the interpreter and torch themselves take
(`FRAMEWORK`), and what an allocator loses between the tensors.

Left out: buffers of the matrix libraries, a second copy of the optimiser while a checkpoint is read, and sharding over
devices.

C stands for the channels of the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from neolm.models.config import DecoderConfig
from neolm.models.cross_entropy import CHUNK_ELEMENTS, CHUNK_ROWS
from neolm.training.activations import BlockActivations, Passes, block_activations
from neolm.training.muon import MAX_STACKED_ELEMENTS, iteration_type
from neolm.training.precision import MAX_BUCKET_ELEMENTS
from neolm.training.pretrain_config import PretrainConfig

# Python, torch and the libraries that both load, in bytes: resident once a first small step is done, measured on Linux.
FRAMEWORK = 400 * 2**20


@dataclass(frozen=True)
class Moment:
    """What is alive at one moment of a step, in bytes, by what it is."""

    name: str
    weights: int
    """Float32 masters, and the working copy where the passes run in another type."""
    gradients: int
    optimiser: int
    average: int
    activations: int
    logits: int
    """The loss's own: a chunk of logits, and the gradients that it makes on its way."""
    batches: int
    """Token ids: of this step, of the next and of the validation."""
    copies: int
    """Of the state, on their way to a checkpoint."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, part) for part in PARTS)


PARTS = tuple(field.name for field in fields(Moment) if field.name != "name")


def moments(model: DecoderConfig, config: PretrainConfig, precision: str, device: str) -> list[Moment]:
    """What is alive at each moment of a step that can be the fullest, on one device that computes it all.

    `precision` is that of the passes, `device` as torch names it. For a device that is not the CPU, batches and copies
    for checkpoints lie in the host's memory, as `host_memory` says; here they are 0.
    """
    step = _Step.of(model, config, precision, device)
    found = [_forward(step), _loss(step), _backward(step), _embedding_gradient(step), _update(step), _save(step)]
    return [*found, _gather(step)] if step.mixed and step.several else found


def peak(model: DecoderConfig, config: PretrainConfig, precision: str, device: str) -> Moment:
    """The fullest moment of a training."""
    return max(moments(model, config, precision, device), key=lambda moment: moment.total)


def state_memory(model: DecoderConfig, config: PretrainConfig, precision: str) -> int:
    """Bytes of weights, gradients and optimiser, without which no batch is small enough."""
    step = _Step.of(model, config, precision, "cpu")
    return step.weights + step.gradients + step.optimiser


def host_memory(model: DecoderConfig, config: PretrainConfig) -> int:
    """Bytes of the host's memory that a training on another device takes, without `FRAMEWORK`."""
    step = _Step.of(model, config, "float32", "cpu")
    return step.batches + step.checkpoint_copies


@dataclass(frozen=True)
class _Step:
    """The sizes that all moments are made of."""

    model: DecoderConfig
    config: PretrainConfig
    passes: Passes

    @classmethod
    def of(cls, model: DecoderConfig, config: PretrainConfig, precision: str, device: str) -> _Step:
        size = min(config.micro_batch_size or config.batch_size, config.batch_size)
        cpu = device == "cpu"
        fused = device.startswith("cuda") and config.compile is not False
        passes = Passes(size, config.sequence_length, precision, cpu, fused)
        return cls(model, config, passes)

    @property
    def mixed(self) -> bool:
        return self.passes.item != 4

    @property
    def several(self) -> bool:
        """Whether a step has more than one micro-batch, so that float32 sums of earlier ones exist."""
        return self.config.batch_size > self.passes.batch

    @property
    def earlier(self) -> int:
        """Gradients of the micro-batches before the last: those of one alone are as they came."""
        if not self.several:
            return 0
        return (4 if self.config.batch_size > 2 * self.passes.batch else self.passes.item) * self.parameters

    @property
    def gradients(self) -> int:
        """Of all parameters when the passes are done: as they come, or sums in float32."""
        return (4 if self.several else self.passes.item) * self.parameters

    @property
    def stream(self) -> int:
        """Of one tensor of the residual stream."""
        return self.passes.rows * self.model.hidden_size * self.passes.item

    @property
    def table(self) -> int:
        """Numbers of the embedding, and of the head."""
        return self.model.vocab_size * self.model.hidden_size

    @property
    def block_parameters(self) -> int:
        model = self.model
        C, wide = model.hidden_size, model.mlp_size
        biases = C * (3 * model.qkv_bias + model.output_bias) + wide + C
        return 4 * C * C + 2 * C * wide + biases + 4 * C  # the last: two norms

    @property
    def parameters(self) -> int:
        model = self.model
        positions = model.max_position_embeddings if model.position_embedding == "learned" else 0
        outside = self.table * (1 if model.tie_embeddings else 2) + (positions + 2) * model.hidden_size
        return outside + model.num_layers * self.block_parameters

    @property
    def matrices(self) -> int:
        """Parameters that Muon moves."""
        model = self.model
        block = 4 * model.hidden_size**2 + 2 * model.hidden_size * model.mlp_size
        return model.num_layers * block + (0 if model.tie_embeddings else self.table)

    @property
    def weights(self) -> int:
        """Float32 masters, and a working copy of two bytes."""
        return (6 if self.mixed else 4) * self.parameters

    @property
    def optimiser(self) -> int:
        """AdamW has two means a parameter, Muon one momentum."""
        muon = self.matrices if self.config.optimiser == "muon" else 0
        return 8 * (self.parameters - muon) + 4 * muon

    @property
    def average(self) -> int:
        return 4 * self.parameters if self.config.ema_decay is not None else 0

    @property
    def batches(self) -> int:
        """Token ids are int64: two batches, this and the next, and what is held out."""
        config = self.config
        return 8 * (config.sequence_length + 1) * (2 * config.batch_size + config.validation_sequences)

    @property
    def checkpoint_copies(self) -> int:
        """The writer's copies of the whole state, and of the best weights."""
        if not self.config.asynchronous_checkpoints:
            return 0
        return 2 * 4 * self.parameters + self.optimiser + self.average

    @property
    def copies_kept(self) -> int:
        """Those that stay while later steps are computed."""
        if not self.config.asynchronous_checkpoints:
            return 0
        state = 4 * self.parameters + self.optimiser + self.average
        config, last = self.config, self.config.total_steps
        return state * (config.checkpoint_every < last) + 4 * self.parameters * (config.validate_every < last)

    def moment(
        self, name: str, gradients: int, activations: int = 0, logits: int = 0, work: int = 0, copies: int | None = None
    ) -> Moment:
        """With what is there at every moment; `work` is the optimiser's own."""
        cpu = self.passes.cpu
        copies = self.copies_kept if copies is None else copies
        return Moment(
            name=name,
            weights=self.weights,
            gradients=gradients,
            optimiser=self.optimiser + work,
            average=self.average,
            activations=activations,
            logits=logits,
            batches=self.batches if cpu else 16 * self.config.sequence_length * self.config.batch_size,
            copies=copies if cpu else 0,
        )


def _blocks(step: _Step) -> list[BlockActivations]:
    return [block_activations(step.model, layer, step.passes) for layer in range(step.model.num_layers)]


def _kept(step: _Step, block: BlockActivations) -> int:
    return block.input if step.config.activation_checkpointing else block.kept


def _outside_blocks(step: _Step) -> int:
    """What the last norm reads, and the mask of the dropout on embeddings."""
    return step.stream + (step.passes.mask(step.model.hidden_size) if step.model.embedding_dropout else 0)


def _forward(step: _Step) -> Moment:
    """The forward pass is in the last block's MLP."""
    *earlier, last = _blocks(step)
    kept = sum(_kept(step, block) for block in earlier) + last.kept
    return step.moment("the forward pass", step.earlier, kept + last.forward_work + _outside_blocks(step) - step.stream)


def _loss(step: _Step) -> Moment:
    """The forward pass is done; the loss works through chunks of logits and has both its gradients in hand."""
    activations = sum(_kept(step, block) for block in _blocks(step)) + _outside_blocks(step) + step.stream
    logits = step.stream + 4 * step.table + _chunk(step)
    return step.moment("the loss", step.earlier, activations, logits)


def _chunk(step: _Step) -> int:
    """A chunk of logits, its softmax and gradient."""
    vocabulary = step.model.vocab_size
    chunk = min(step.passes.rows, max(CHUNK_ROWS, CHUNK_ELEMENTS // vocabulary)) * vocabulary
    if not step.mixed:
        return 8 * chunk
    if step.passes.cpu:  # its softmax converts its input to float32 first
        return 10 * chunk
    return 8 * chunk + 2 * step.table


def _backward(step: _Step) -> Moment:
    """The backward pass is in the block that makes it the fullest: from the last to the first, activations go and
    gradients of weights come.
    """
    blocks = _blocks(step)
    outside = _outside_blocks(step) - step.stream
    fresh = 0 if step.several and not step.mixed else step.passes.item  # into float32 sums, they leave nothing behind
    found = []
    for layer, block in enumerate(blocks):
        most = block.most(step.config.activation_checkpointing)
        activations = sum(_kept(step, below) for below in blocks[:layer]) + outside + step.stream + most
        above = (step.model.num_layers - 1 - layer) * step.block_parameters
        gradients = step.earlier + fresh * above + step.passes.item * step.table
        found.append(step.moment("the backward pass", gradients, activations))
    return max(found, key=lambda moment: moment.total)


def _embedding_gradient(step: _Step) -> Moment:
    """The end of the backward pass: all gradients, and once more one as large as the embedding."""
    fresh = 0 if step.several and not step.mixed else step.passes.item * step.parameters
    gradients = step.earlier + fresh + step.passes.item * step.table
    return step.moment("the embedding's gradient", gradients, 2 * step.stream)


def _gather(step: _Step) -> Moment:
    """Gradients of the working copy are added to the float32 sums of earlier micro-batches."""
    widened = 4 * step.table if step.passes.cpu else 0  # a CPU adds two bytes to four by way of four
    return step.moment("the sums of the gradients", (2 + 4) * step.parameters + widened)


def _update(step: _Step) -> Moment:
    """The optimisers move the first of the masters, whose gradients are in float32."""
    work = _muon(step) if step.config.optimiser == "muon" else 0
    bucket = min(step.parameters, max(MAX_BUCKET_ELEMENTS, step.table))
    widened = 0 if step.gradients == 4 * step.parameters else 4 * bucket
    return step.moment("the optimiser's step", step.gradients + widened, work=work)


def _muon(step: _Step) -> int:
    """What Muon holds of the matrices that it takes together: updates, also stacked, two iterates, two square ones."""
    model, item = step.model, iteration_type("cpu").itemsize if step.passes.cpu else 2
    C, layers = model.hidden_size, model.num_layers
    shapes = [(3 * C, C, layers), (C, C, layers), (model.mlp_size, C, layers)]
    if not model.tie_embeddings:
        shapes.append((model.vocab_size, C, 1))
    most = 0
    for rows, columns, count in shapes:
        together = min(count, max(1, MAX_STACKED_ELEMENTS // (rows * columns)))
        most = max(most, together * (2 * (4 + item) * rows * columns + 2 * item * min(rows, columns) ** 2))
    return most


def _save(step: _Step) -> Moment:
    """A checkpoint is copied; the optimisers have dropped the gradients."""
    return step.moment("a checkpoint", 0, copies=step.checkpoint_copies)
