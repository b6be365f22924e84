"""The decoder layers of a model: where they lie, what each does to the hidden states, and the model without some.

Left out on purpose: families whose layers are several lists, are shared between places, or hand on something else than
one hidden state a token. They are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch

from distillknob.errors import BadInputError
from distillknob.models.adapters import bare
from distillknob.models.caches import UNREADABLE
from distillknob.models.forward import forward_pass

_OTHER_TOWERS = re.compile("vision|visual|audio|speech")


class Layers(NamedTuple):
    """The decoder layers of a model and the place of their list: an attribute of a module."""

    parent: torch.nn.Module
    attribute: str
    modules: torch.nn.ModuleList


def decoder_layers(model: Any) -> Layers:
    """Find the one list of a causal language model that holds all its decoder layers, in the order of their work.

    Raises BadInputError for a model whose layers aren't one list, or that has one layer in several places.
    """
    whole = bare(model)
    count = whole.config.get_text_config(decoder=True).num_hidden_layers
    lists = list(_lists(whole, count))
    if len(lists) != 1 or len(set(map(id, lists[0].modules))) != count:
        raise BadInputError(
            f"models of type {whole.config.model_type!r} don't have their {count} layers in one list, each once, by "
            "which single layers are known here: take a model of another architecture"
        )
    return lists[0]


def _lists(parent: torch.nn.Module, count: int) -> Iterator[Layers]:
    for name, child in parent.named_children():
        weights = any(True for _ in child.parameters())  # which rotary positions by layer have none of
        if isinstance(child, torch.nn.ModuleList) and len(child) == count and weights:
            yield Layers(parent, name, child)
        elif not _OTHER_TOWERS.search(name):
            yield from _lists(child, count)


@contextmanager
def without_layers(model: Any, numbers: Collection[int]) -> Iterator[None]:
    """Let the hidden states pass the layers of these numbers as they are, within. No cache may be in use: it would have
    a hole.

    Raises BadInputError for an architecture whose layers can't be passed so.
    """
    if not numbers:
        yield
        return
    layers = decoder_layers(model).modules
    passed = [layers[number] for number in sorted(numbers)]
    with forwards(passed, [_passing(count) for count in _outputs(model, passed)]):
        yield


@contextmanager
def forwards(layers: Sequence[torch.nn.Module], instead: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Let each layer's forward pass be another one within; behind, each has its own again."""
    own = [layer.__dict__.get("forward") for layer in layers]  # None: its class's
    for layer, forward in zip(layers, instead, strict=True):
        layer.forward = forward
    try:
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            if before is None:
                del layer.forward
            else:
                layer.forward = before


def _passing(outputs: int | None) -> Callable[..., Any]:
    """A layer's forward pass that returns what it is given: alone, or first of so many outputs."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = _given(args, kwargs)
        return hidden if outputs is None else (hidden, *[None] * (outputs - 1))

    return forward


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("hidden_states")


def _outputs(model: Any, layers: Sequence[torch.nn.Module]) -> list[int | None]:
    """How many outputs each layer gives beside one another; None for one that gives its hidden states alone."""
    seen: dict[int, int | None] = {}

    def look(layer: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen[id(layer)] = None if isinstance(output, torch.Tensor) else len(output)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_hook(look, with_kwargs=True).remove)
        try:
            with torch.no_grad():
                forward_pass(model, input_ids=torch.tensor([[0, 1]], device=model.device), use_cache=False)
        except UNREADABLE as error:
            raise _unknown(model, str(error)) from error
    if len(seen) != len(layers):
        raise _unknown(model, "not every layer is called")
    return [seen[id(layer)] for layer in layers]


@contextmanager
def directions(
    model: Any, mask_BT: torch.Tensor, see: Callable[[int, torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    """Hand `see(layer, before_NH, after_NH)` the hidden states before and behind each layer in the forward passes
    within: of the N tokens under the mask, in float32, each scaled to length 1.

    Raises BadInputError, within, for layers that give or take something else than one hidden state a token.
    """
    before: dict[int, torch.Tensor] = {}

    def unit(states: Any) -> torch.Tensor:
        if not isinstance(states, torch.Tensor) or states.shape[:-1] != mask_BT.shape:
            raise _unknown(model, "they don't hand on one hidden state a token")
        return torch.nn.functional.normalize(states[mask_BT].float(), dim=-1)

    def enter(number: int, args: Any, kwargs: Any) -> None:
        before[number] = unit(_given(args, kwargs))  # a copy: a layer may add to its input in place

    def leave(number: int, output: Any) -> None:
        see(number, before.pop(number), unit(output if isinstance(output, torch.Tensor) else output[0]))

    with ExitStack() as hooks:
        for number, layer in enumerate(decoder_layers(model).modules):
            at: Any = number
            hooks.callback(
                layer.register_forward_pre_hook(
                    lambda _, args, kwargs, at=at: enter(at, args, kwargs), with_kwargs=True
                ).remove
            )
            hooks.callback(layer.register_forward_hook(lambda _, args, output, at=at: leave(at, output)).remove)
        yield


def _unknown(model: Any, why: str) -> BadInputError:
    return BadInputError(
        f"the layers of {bare(model).config.model_type!r} models can't be left out one by one ({why}): take a model of "
        "another architecture"
    )
