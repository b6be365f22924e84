"""How a model turns its last hidden state into logits: weight, bias, scale and soft-cap, by transformers' configs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.autograd.function import once_differentiable

from distillknob.divergences import products
from distillknob.errors import BadInputError
from distillknob.models.forward import forward_pass

# What the logits of a block of rows may take. A block reads the whole head once, on which 440 rows of 151,936 tokens
# spend 3 % of their time.
_CPU_LOGITS_BYTES, _DEVICE_LOGITS_BYTES = 1 << 28, 1 << 30
_LARGE = 100.0  # the largest logit beside which a cap shows; models cap at 15 to 50
# The scale and soft-cap of the head of each model that was set beside its own logits.
_CHECKED: WeakKeyDictionary[Any, tuple[float, float | None]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Head:
    """logits = softcap · tanh(scale · (weight @ hidden + bias) / softcap), without the tanh where softcap is None."""

    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None
    scale: float
    softcap: float | None
    exchange: tuple[int, int] | None = None  # two tokens that stand for one another in another model's vocabulary

    def logits(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """[N, V] in float32 at least."""
        logits_NV = self._product(hidden_NH)
        if self.scale != 1:
            logits_NV = logits_NV * self.scale
        if self.softcap is not None:
            logits_NV = self.softcap * torch.tanh(logits_NV / self.softcap)
        if self.exchange is not None:
            logits_NV = exchanged(logits_NV, self.exchange)
        return logits_NV

    def _product(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """weight @ hidden + bias in float32 at least. Products of a shorter type are summed and kept in float32:
        rounded logits make a KL of 0.0007 nats a token twice as large."""
        weight_VH = self.weight_VH
        hidden_NH = hidden_NH.to(weight_VH.dtype)  # Mamba's body ends in float32 whatever the type of its weights
        if weight_VH.dtype not in products.HALF:
            logits_NV = torch.nn.functional.linear(hidden_NH, weight_VH, self.bias_V)
            return logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        logits_NV = _HalfProduct.apply(hidden_NH, weight_VH)
        return logits_NV if self.bias_V is None else logits_NV + self.bias_V.float()

    def blocks(self, rows: int) -> Iterator[slice]:
        """Slices of the rows whose logits are small enough to hold."""
        step = block_rows(len(self.weight_VH), on_cpu=self.weight_VH.device.type == "cpu")
        return (slice(start, min(start + step, rows)) for start in range(0, rows, step))

    def cross_entropy(self, hidden_NH: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        """−log p(label) in nats, summed over the N positions (a scalar), in float32 at least."""
        return torch.nn.functional.cross_entropy(self.logits(hidden_NH), labels_N, reduction="sum")


class _HalfProduct(torch.autograd.Function):
    """hidden·weightᵀ of half-precision factors, [N, V] in float32. Its gradient is rounded to their type before it is
    multiplied, as behind any such head, on a GPU alone: elsewhere the factors are converted."""

    @staticmethod
    def forward(ctx, hidden_NH, weight_VH):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(hidden_NH, weight_VH)
        logits_NV = hidden_NH.new_empty((len(hidden_NH), len(weight_VH)), dtype=torch.float32)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            products.project(hidden_NH, weight_VH, logits_NV)
        return logits_NV

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_NV):  # type: ignore[no-untyped-def]
        hidden_NH, weight_VH = ctx.saved_tensors
        if products.multiplied_as_they_are(hidden_NH, weight_VH):
            grad_NV = grad_NV.to(weight_VH.dtype)
        grad_NH = grad_VH = None
        with torch.autocast(hidden_NH.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad_NH = products.hidden_gradient(grad_NV, weight_VH).to(hidden_NH.dtype)
            if ctx.needs_input_grad[1]:
                grad_VH = products.head_gradient(grad_NV, hidden_NH, len(weight_VH), weight_VH.dtype)
        return grad_NH, grad_VH


def exchanged(values: torch.Tensor, tokens: tuple[int, int]) -> torch.Tensor:
    """Values [..., V] with the columns of two tokens exchanged, in place."""
    values[..., list(tokens)] = values[..., list(reversed(tokens))]
    return values


def block_rows(vocabulary: int, *, on_cpu: bool) -> int:
    """How many rows of float32 logits over that many tokens are held at a time."""
    return max(1, (_CPU_LOGITS_BYTES if on_cpu else _DEVICE_LOGITS_BYTES) // (4 * vocabulary))


def body_of(model: Any) -> Any:
    """What a causal language model (unwrapped) makes its last hidden states with, the norm included: its base model, as
    in TRL. transformers' `get_decoder` is the whole model for Llama 4."""
    return model.base_model


def head_of(model: Any) -> Head:
    """The head of a causal language model (unwrapped, not a PEFT wrapper's own attribute)."""
    linear = model.get_output_embeddings()
    config = model.config.get_text_config()
    return Head(linear.weight, linear.bias, _scale(config), getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def checked_head(model: Any) -> Head:
    """`head_of`, set beside the model's own logits on two tokens. Raises BadInputError where they differ: then the
    architecture makes its logits in a way that isn't known here."""
    head = head_of(model)
    # Once a model: the forward passes read all of its weights.
    if _CHECKED.get(model) == (head.scale, head.softcap):
        return head
    own = _own_logits(model)
    if not bool(own.max(-1).values.isfinite().all()):
        raise BadInputError(
            f"{model.name_or_path!r} gives logits that are NaN or infinite: it is broken, or overflows in its dtype "
            "(load it in bfloat16 or float32)"
        )
    read = forward_pass(body_of(model), input_ids=_two_tokens(model), use_cache=False)
    hidden = getattr(read, "last_hidden_state", None)
    # Small logits say nothing about a cap, so the same is asked of the hidden states a few times as long.
    longer = float(_LARGE / own.abs().max().clamp(min=0.1))
    pairs = [] if hidden is None else [(own, hidden), (_own_logits(model, longer), hidden * longer)]
    if not pairs or any(_differ(theirs, head.logits(states[0]).float()) for theirs, states in pairs):
        raise BadInputError(
            f"the logits of {model.config.model_type!r} models are not their output embedding times their last hidden "
            "state (with a scale and a soft-cap that the config names): this architecture isn't supported"
        )
    _CHECKED[model] = (head.scale, head.softcap)
    return head


def _two_tokens(model: Any) -> torch.Tensor:
    return torch.tensor([[0, 1]], device=model.device)


def _own_logits(model: Any, longer: float = 1.0) -> torch.Tensor:
    """The model's own logits of two tokens, [2, V], from `longer` times what its body gives to the head."""
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0] * longer, *args[1:]))
    try:
        logits: torch.Tensor = forward_pass(model, input_ids=_two_tokens(model), use_cache=False).logits[0].float()
    finally:
        hook.remove()
    return logits


def _differ(own: torch.Tensor, made: torch.Tensor) -> bool:
    return not bool((own - made).abs().max() <= 0.02 * own.abs().max() + 1e-3)


def _scale(config: Any) -> float:
    # The same multiplier goes by four names: Cohere, Muse Glimmer, Falcon-H1, and Granite, which divides by it
    # (HyperCLOVA X multiplies).
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1.0 / float(scaling)
