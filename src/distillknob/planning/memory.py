"""This module counts the memory that a stage would take on each device: what stays there all along, and what its
largest phase adds.

Widths are those that the libraries really use. A model is loaded in its checkpoint's own type (bfloat16) on a GPU, and
on a CPU as `models.dtypes` says. Full fine-tuning keeps weights, gradients and Adam's moments in float32, as TRL does,
and works in bfloat16; FSDP2 gathers the weights in bfloat16, and ZeRO-3 keeps bfloat16 weights beside a float32 copy. A
LoRA adapter is float32, and its anchor is the model with the adapter off. What isn't trained stays whole on each
device, but for what ZeRO-3 takes over.

Left out on purpose: an allocator's fragments (but for a CPU's caches) and CUDA's own context, for which MARGIN is kept
free, and quantisation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from distillknob.diagnosis.sketches import EXACT, SKETCH
from distillknob.divergences.fused import chunk_bytes
from distillknob.models.architecture import Architecture
from distillknob.models.heads import block_rows
from distillknob.models.loaded.sampling import rows_at_once
from distillknob.planning.duration import read_tokens
from distillknob.planning.hardware import Engine
from distillknob.planning.phases import Phase, Trained, Workload

MARGIN = 0.08
ADAM = 2  # moments of each trained parameter
# Times what they hold: caches grow by doubling, and what they leave behind lies in pieces that the next don't fit. Of a
# model of 135 M parameters 512 rows took 6.0 GB and 246 rows 3.0 GB, of which the caches themselves were 2.2 and 1.1.
CPU_CACHES = 2.0
TRL_CHUNK = (4096, 8192)  # tokens × vocabulary of a tile of TRL's chunked log-probabilities


class Footprint(NamedTuple):
    """A footprint is the memory that a stage takes on each device, in bytes by what takes them: what stays there all
    along (`resident`), and what the `largest` phase adds while it lasts (`phase`)."""

    resident: dict[str, float]
    phase: dict[str, float]
    largest: str

    @property
    def total(self) -> float:
        return sum(self.resident.values()) + sum(self.phase.values())


def footprint(work: Workload, engine: Engine) -> Footprint:
    """Estimate the bytes that the stage takes on each device of `engine`."""
    zero3 = engine.sharding == "zero3" and not work.single
    parts = 1 if work.single else engine.parts
    resident: dict[str, float] = {}
    for what, model in work.resident:
        shared = parts if zero3 and what == "teacher" else 1
        resident[what] = resident.get(what, 0.0) + model.parameters * _loaded(model, engine) / shared
    if work.trained is not None:
        resident |= _trained(work.trained, engine, parts)
    if work.vllm_share:
        resident["vLLM"] = work.vllm_share * engine.device.memory
    phases = [(phase.what, _phase(phase, work, engine, parts)) for phase in work.phases]
    # Where every model stands behind a server, nothing is done here.
    largest, sizes = max(phases, key=lambda phase: sum(phase[1].values()), default=("nothing here", {}))
    return Footprint(resident, sizes, largest)


def _loaded(model: Architecture, engine: Engine) -> int:
    """Bytes of a weight as `load_model` loads it."""
    if engine.device.utilised:
        return model.bytes_each
    return 2 if model.dtype_on_cpu == "bfloat16" else 4


def _trained(trained: Trained, engine: Engine, parts: int) -> dict[str, float]:
    """Weights, gradients and optimizer state, and the anchor's copy."""
    model = trained.model
    loaded = _loaded(model, engine) if trained.dtype is None else trained.dtype.itemsize
    n = trained.adapter or model.parameters
    if trained.adapter:
        sizes = {
            "weights": model.parameters * loaded / parts,
            "adapter": 4.0 * n / parts,
            "gradients": 4.0 * n / parts,
            "optimizer": 4.0 * ADAM * n / parts,
        }
    elif engine.sharding == "zero3":
        sizes = {"weights": 2.0 * n / parts, "gradients": 2.0 * n / parts, "optimizer": 4.0 * (ADAM + 1) * n / parts}
    else:
        split = parts if engine.sharding == "fsdp2" else 1
        sizes = {"weights": 4.0 * n / split, "gradients": 4.0 * n / split, "optimizer": 4.0 * ADAM * n / split}
    if trained.along:
        sizes["the loss's own weights"] = 4.0 * (2 + ADAM) * trained.along
    if trained.private:  # the last text's gradient, the clipped ones' sum, and the sum with its noise, which is counted
        sizes["clipped gradients"] = 2.0 * sizes["gradients"]
    if engine.sharding == "ddp":
        sizes["DDP's buckets"] = sizes["gradients"]
    if trained.reference:
        # FSDP2 shards TRL's reference model as one group, which a forward pass gathers whole.
        # TRL loads it in the type of the policy, which DeepSpeed then makes bfloat16.
        zero3 = engine.sharding == "zero3"
        sizes["reference"] = model.parameters * (loaded / parts if zero3 else 4.0)
    if parts > 1:
        # Two layers at a time (the one at work and the next), and the embeddings and head for the whole pass.
        sizes["gathered"] = 2.0 * (2 * _layer(model) + model.parameters - model.layers * _layer(model))
    return sizes


def _layer(model: Architecture) -> float:
    return (model.read - model.head) / model.layers


def _phase(phase: Phase, work: Workload, engine: Engine, parts: int) -> dict[str, float]:
    on_cpu = not engine.device.utilised
    model, width = phase.model, phase.itemsize
    if phase.kind == "decode":
        if not phase.own and work.vllm:
            return {}
        numbers = model.cached(phase.tokens)
        rows = rows_at_once(min(phase.at_once, int(phase.rows) or 1), numbers, width, on_cpu=on_cpu)
        caches = float(rows * width * numbers) * (CPU_CACHES if on_cpu else 1.0)
        # In float32: the logits, their exponentials, these in whole blocks, and the result.
        drawing = float(rows * model.vocabulary * 4 * 4)
        sizes = {"key–value caches": caches, "next-token logits": drawing}
        if parts > 1 and not phase.own and engine.sharding == "zero3":
            sizes["gathered for generation"] = 2.0 * model.parameters
        return sizes
    if phase.kind == "gradient":
        return _gradients(phase, engine, width)
    if phase.kind == "score":
        rows = min(phase.at_once, int(phase.rows) or 1)
        answers = rows * phase.answer
        block = min(answers, block_rows(model.vocabulary, on_cpu=on_cpu))
        return {
            "activations": rows * read_tokens(phase, work, engine) * _passing(model, width),
            "logits": 2.0 * 4 * block * model.vocabulary,  # and their exponentials, or the other model's
        }
    trained = work.trained
    assert trained is not None
    return _training(phase, trained, engine)


def _gradients(phase: Phase, engine: Engine, width: int) -> dict[str, float]:
    """What `diagnose` holds while it compares gradients: layers are computed again and logits formed by blocks, and
    each parameter's gradient is let go once it is added to what is kept of it."""
    model, rows = phase.model, phase.at_once
    block = min(rows * phase.answer, block_rows(model.vocabulary, on_cpu=not engine.device.utilised))
    kept = model.parameters if model.parameters <= EXACT else SKETCH
    return {
        "activations": rows * phase.tokens * (model.hidden * width * model.layers + _kept(model, width)),
        "logits": 6.0 * 4 * block * model.vocabulary,
        # The largest parameter's: summed in its type, with one more term.
        "one gradient": 2.0 * width * model.head,
        "gradients kept": 2.0 * 3 * 4 * kept,
    }


def _passing(model: Architecture, width: int) -> float:
    """Bytes a token while one layer is passed without keeping anything for a gradient."""
    attention = (2 * model.heads + 2 * model.kv_heads) * model.head_dim
    return 2.0 * 4 * model.hidden + width * (2 * model.hidden + max(attention, 3 * model.intermediate))


def _kept(model: Architecture, width: int) -> float:
    """Bytes a token that one layer keeps for its gradient: the float32 insides of four norms, projections and their
    rotated copies, keys and values repeated for each head, the feed-forward's gate, its product and the residuals."""
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    norms = 2 * model.hidden * (4 + 4 + width) + (queries + keys) * (4 + 4 + width)
    attention = (queries + 2 * keys) + 2 * (queries + keys) + 3 * queries + model.hidden
    feed_forward = 4 * model.intermediate + model.hidden
    return norms + width * (attention + feed_forward + 2 * model.hidden)


def _training(phase: Phase, trained: Trained, engine: Engine) -> dict[str, float]:
    """What a pass of the training holds until it has gone back. Each row counts with its prompt, though one that
    several rows have may be read once: what is kept of it is repeated for them, and a pass may hold no two of one."""
    model, width = trained.model, phase.itemsize
    tokens, answers = phase.at_once * phase.tokens, phase.at_once * phase.answer
    saved = _kept(model, width)
    if trained.adapter:  # what the adapters add to each projection's result
        queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
        saved += width * (queries + 2 * keys + 2 * model.hidden + 2 * model.intermediate)
    layers = model.hidden * width * model.layers + saved if trained.checkpointing else saved * model.layers
    sizes = {"activations": tokens * layers}
    whole_head = 0.0 if trained.adapter else 4.0 * model.head  # the head's gradient is summed in float32
    if trained.logits == "tiles":
        tile = min(answers, TRL_CHUNK[0]) * min(model.vocabulary, TRL_CHUNK[1])
        sizes["head"] = 2.0 * 4 * tile + whole_head + 2.0 * 4 * answers * model.hidden
    elif trained.logits == "blocks":
        device = torch.device("cpu" if not engine.device.utilised else "cuda")
        chunk = chunk_bytes(answers, model.vocabulary, device)
        sizes["head"] = chunk + whole_head + 3.0 * 4 * answers * model.hidden
    else:
        # Logits, their float32 copy, the log-softmax and its gradient, over every token of the answers.
        sizes["logits"] = float(answers * model.vocabulary * (width + 4 + 4 + 4)) + whole_head
    if trained.along_width:  # what its weights make of the states, and the difference from the teacher's, in float32
        sizes["projected states"] = 4.0 * 4 * answers * trained.along_width
    return sizes
