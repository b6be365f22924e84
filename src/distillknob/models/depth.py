"""A model with fewer layers: the config that goes with those that stay, and the proof that each is what it was.

Some families say in their config what single layers are: their kind of attention, their window, whether they have
rotary positions or experts. These entries follow the layers that stay. Whether they did is not taken on trust: the
model that the new config makes is set beside the old one, layer by layer, and what differs is refused by its name.

Left out on purpose: models whose layers read the keys and values of other layers, or do by their number what no config
can say (DiffLlama's λ). The comparison refuses them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from distillknob.errors import BadInputError
from distillknob.models.adapters import bare
from distillknob.models.caches import UNREADABLE
from distillknob.models.layers import decoder_layers

# How configs of transformers 5 name what differs between layers: by an entry a layer, by the layers' numbers, or by how
# many come first.
_ENTRIES = (
    *("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers", "block_types", "layer_rope_theta"),
    *("num_attention_heads_per_layer", "activation_sparsity_pattern", "moe_layer_freq", "attention_layers"),
)
_NUMBERS = ("mlp_only_layers", "attn_layer_indices", "full_attn_idxs", "moe_layers", "hybrid_layer_ids", "kda_layers")
_FIRST = ("first_k_dense_replace", "num_dense_layers", "max_window_layers", "moe_layer_start_index")
_OWN_NUMBER = ("layer", "idx", "index", "block")  # in the names of attributes that hold a layer's number


def config_of_layers(config: Any, stay: Sequence[int]) -> Any:
    """Make the config of the model that is left when the layers of the numbers `stay` (ascending) alone stay. The one
    that is handed in is not changed.

    Raises BadInputError where the layers read one another's keys and values.
    """
    text = config.get_text_config(decoder=True)
    count = text.num_hidden_layers
    if getattr(text, "num_kv_shared_layers", None):
        raise BadInputError(
            f"the last {text.num_kv_shared_layers} layers of this {config.model_type!r} model read keys and values of "
            "earlier ones (num_kv_shared_layers), so that no layer can be left out alone: take a model of another "
            "architecture"
        )
    values = copy.deepcopy(config.to_dict())
    inside = values if text is config else values[_name_of(config, text)]
    place = {old: new for new, old in enumerate(stay)}
    _name_dense_layers(inside, count)
    for name, value in list(inside.items()):
        if name in _ENTRIES and isinstance(value, list | tuple) and len(value) >= count:
            inside[name] = [value[old] for old in stay]
        elif name in _NUMBERS and isinstance(value, list | tuple):
            inside[name] = [place[old] for old in value if old in place]
        elif name in _FIRST and isinstance(value, int):
            inside[name] = sum(old < value for old in stay)
    if isinstance(inside.get("per_layer_config"), dict):
        overrides = {int(old): entry for old, entry in inside["per_layer_config"].items()}
        inside["per_layer_config"] = {place[old]: entry for old, entry in overrides.items() if old in place}
    inside[text.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(stay)
    return type(config).from_dict(values)


def _name_of(config: Any, text: Any) -> str:
    return next(name for name in config.sub_configs if getattr(config, name, None) is text)


def _name_dense_layers(values: dict[str, Any], count: int) -> None:
    """Name the layers without experts one by one, where a config has them at every so manieth layer."""
    step = values.get("decoder_sparse_step")
    if isinstance(step, int) and step > 1 and isinstance(values.get("mlp_only_layers"), list):
        dense = {number for number in range(count) if (number + 1) % step}
        values["mlp_only_layers"] = sorted(dense | set(values["mlp_only_layers"]))
        values["decoder_sparse_step"] = 1


def cut(model: Any, stay: Sequence[int]) -> None:
    """Take the other layers out of a model, in place, to be saved: until it is loaded again its layers have their old
    numbers. Raises as `config_of_layers` and `decoder_layers`."""
    config = config_of_layers(model.config, stay)
    layers = decoder_layers(model)
    setattr(layers.parent, layers.attribute, torch.nn.ModuleList([layers.modules[number] for number in stay]))
    model.config = config


def check_can_be_cut(config: Any, stay: Sequence[int], name: str) -> None:
    """Raise BadInputError where the model of this config wouldn't have the layers that it had if those of the numbers
    `stay` alone were left. Both are built on the meta device, where they take no memory."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            before, after = (
                AutoModelForCausalLM.from_config(copy.deepcopy(one)) for one in (config, config_of_layers(config, stay))
            )
    except (*UNREADABLE, StrictDataclassError) as error:
        raise BadInputError(
            f"{name!r} can't be built with layers {', '.join(map(str, stay))} alone, as its {config.model_type!r} "
            f"config has it ({' '.join(str(error).split())[:200]}): choose others (keep_layers), or a model of another "
            "architecture"
        ) from error
    check_same_layers([*decoder_layers(before).modules], after, stay, name)
    theirs, ours = (dict(_shapes_outside(model)) for model in (before, after))
    changed = next((place for place in {**theirs, **ours} if theirs.get(place) != ours.get(place)), None)
    if changed is not None:
        raise BadInputError(
            f"{name!r} keeps something of each layer outside of its layers ({changed}), which can't be cut along with "
            "them: take a model of another architecture"
        )


def _shapes_outside(model: Any) -> Iterator[tuple[str, torch.Size]]:
    """The shapes of a model's weights that lie outside of its layers, by name."""
    inside = {id(weight) for weight in decoder_layers(model).modules.parameters()}
    return ((name, weight.shape) for name, weight in model.named_parameters() if id(weight) not in inside)


def check_same_layers(before: Sequence[torch.nn.Module], model: Any, stay: Sequence[int], name: str) -> None:
    """Raise BadInputError where a layer of the `model` is made otherwise than the one of `before` that it was: `before`
    are all layers of the old model, `stay` the numbers of those that are left, in their order."""
    after = decoder_layers(model).modules
    for new, old in enumerate(stay):
        for where, here, there in _differences(before[old], after[new], old, new):
            raise BadInputError(
                f"layer {old} of {name!r} would be another as number {new}: its {where} is {here}, and would be "
                f"{there}. What the layers of {bare(model).config.model_type!r} models are follows from their places, "
                "so that these can't be left out: choose others (keep_layers), or a model of another architecture"
            )


def _differences(before: torch.nn.Module, after: torch.nn.Module, old: int, new: int) -> Iterator[tuple[str, Any, Any]]:
    """Where two layers differ in what they are made of: (attribute, the first's, the second's). Their numbers do."""
    theirs, ours = dict(before.named_modules()), dict(after.named_modules())
    for place in {**theirs, **ours}:
        here, there = (type(side[place]).__name__ if place in side else "not there" for side in (theirs, ours))
        if here != there:
            yield place or "class", here, there
            continue
        first, second = _made_of(theirs[place]), _made_of(ours[place])
        for attribute in {**first, **second}:
            pair = first.get(attribute), second.get(attribute)
            numbered = pair == (old, new) and any(part in attribute for part in _OWN_NUMBER)
            if pair[0] != pair[1] and not numbered:
                yield f"{place}.{attribute}".lstrip("."), *pair


def _made_of(module: torch.nn.Module) -> dict[str, Any]:
    """A module's plain values, and the shapes of its own weights."""
    plain = {
        name: _as_list(value)
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return plain | {name: tuple(tensor.shape) for name, tensor in own}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _as_list(value: Any) -> Any:
    return list(map(_as_list, value)) if isinstance(value, tuple) else value  # as JSON has it
