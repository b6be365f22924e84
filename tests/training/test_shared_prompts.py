"""Samples behind a prompt that is read once train as whole rows do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from distillknob.models.adapters import bare
from distillknob.models.forward import number_positions
from distillknob.models.load import load_model
from distillknob.training import shared_prompts as module
from distillknob.training.shared_prompts import pays, prompts_read_once, shared_prompts
from pairs import Pair
from tiny_architectures import ARCHITECTURES, made

COMPLETION = 7


@pytest.fixture
def however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CPU_PRODUCTS", 0)


def batch(prompts: int = 3, samples: int = 4) -> tuple[Tensor, Tensor]:
    """Ids and mask of samples of several lengths to prompts of several lengths, in no order."""
    generator = torch.Generator().manual_seed(2)
    width, rows = 12, []
    for p in range(prompts):
        prompt = torch.randint(20, 900, (width - 3 * (p % 3),), generator=generator).tolist()
        for s in range(samples):
            length = 1 + (2 * s + p) % COMPLETION
            answer = torch.randint(20, 900, (length,), generator=generator).tolist()
            before, behind = width - len(prompt), COMPLETION - length
            rows.append(
                (
                    [0] * before + prompt + answer + [0] * behind,
                    [0] * before + [1] * (len(prompt) + length) + [0] * behind,
                )
            )
    order = torch.randperm(len(rows), generator=generator)
    ids, mask = (torch.tensor([row[i] for row in rows])[order] for i in (0, 1))
    return ids, mask


def logprobs_and_gradients(model: Any, *, shared: bool) -> tuple[Tensor, dict[str, Tensor]]:
    ids_BT, mask_BT = batch()
    labels = ids_BT.masked_fill(mask_BT == 0, -100)
    labels[:, :-COMPLETION] = -100
    if shared:
        grouped = shared_prompts(ids_BT, mask_BT, COMPLETION)
        assert len(grouped.prompt_ids_PT) == 3 and pays(model, grouped)
        short = slice(-COMPLETION - 1, None)
        with prompts_read_once(model, grouped):
            read = model(
                input_ids=ids_BT[:, short],
                attention_mask=mask_BT[:, short],
                labels=labels[:, short],
                fused_lm_head=True,
            )
    else:
        read = model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels, fused_lm_head=True)
    logps_BC: Tensor = read.log_probs[:, -COMPLETION:]
    weights = torch.randn(logps_BC.shape, generator=torch.Generator().manual_seed(4), dtype=logps_BC.dtype)
    model.zero_grad()
    (logps_BC * weights * mask_BT[:, -COMPLETION:]).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logps_BC.detach() * mask_BT[:, -COMPLETION:], gradients


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.usefixtures("however_small")
def test_log_probabilities_and_gradients_are_those_of_whole_rows(
    architecture: str, attention: str, tmp_path: Path
) -> None:
    checkpoint = made(architecture, tmp_path / "model", 3)
    if (architecture, attention) == ("gemma2", "sdpa"):
        pytest.skip("its soft-cap isn't in torch's fused attention")
    # In float32: transformers' plain attention makes NaN of padding in float64.
    model: Any = load_model(checkpoint, options={"attn_implementation": attention}).model.train()
    number_positions(model)
    add_fused_lm_head(model)
    whole, wanted = logprobs_and_gradients(model, shared=False)
    ours, gradients = logprobs_and_gradients(model, shared=True)
    torch.testing.assert_close(ours, whole, atol=2e-4, rtol=1e-4)
    assert gradients.keys() == wanted.keys() and gradients
    for name, gradient in wanted.items():
        assert (gradients[name] - gradient).norm() <= 2e-3 * gradient.norm() + 1e-5, name


@pytest.mark.usefixtures("however_small")
def test_an_adapter_trains_the_same_and_switched_off_reads_the_same(tiny_pair: Pair) -> None:
    model: Any = load_model(tiny_pair.teacher).model
    add_fused_lm_head(model)
    adapted: Any = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).double()
    whole, wanted = logprobs_and_gradients(adapted, shared=False)
    ours, gradients = logprobs_and_gradients(adapted, shared=True)
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == wanted.keys() and all("lora" in name for name in gradients)
    for name, gradient in wanted.items():
        assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    ids_BT, mask_BT = batch()
    grouped = shared_prompts(ids_BT, mask_BT, COMPLETION)
    with adapted.disable_adapter(), torch.no_grad():
        of_rows = bare(adapted).base_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        with prompts_read_once(adapted, grouped):
            shared = bare(adapted).base_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    kept = mask_BT[:, -COMPLETION:].bool()
    torch.testing.assert_close(shared[:, :-1][kept], of_rows[:, -COMPLETION - 1 : -1][kept], atol=1e-5, rtol=1e-5)
    assert "forward" not in bare(adapted).base_model.__dict__  # whole rows again behind it


def test_where_it_does_not_pay(tiny_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = load_model(tiny_pair.teacher).model.train()
    several = shared_prompts(*batch(), COMPLETION)
    assert not pays(model, several)  # so small a model is as fast reading rows
    monkeypatch.setattr(module, "_CPU_PRODUCTS", 0)
    assert pays(model, several)
    assert not pays(model, shared_prompts(*batch(prompts=4, samples=1), COMPLETION))  # nothing repeats
    model.gradient_checkpointing_enable()
    assert not pays(model, several)  # checkpoints keep no cache
