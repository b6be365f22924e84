"""One text has one score: whoever reads it, however it is padded, and in training as in evaluation. Rollouts come from
the distribution that is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, TrainerCallback

import one_score
from distillknob.calibration.config import CalibrationConfig
from distillknob.distillation.config import DistillConfig
from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.forward import number_positions, silence
from distillknob.models.load import load_model
from distillknob.models.scoring import token_logprobs
from pairs import Pair

GPT2 = {"n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 2}
OPT = {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.3, "attention_dropout": 0.3, "layerdrop": 0.3}


@pytest.mark.parametrize(
    ("kind", "shape", "values"),
    [
        ("gpt2", GPT2, {}),  # learnt positions, and dropout of 0.1
        ("gpt2", GPT2, {"use_peft": True, "gradient_checkpointing": True}),
        ("opt", OPT, {}),  # functional dropout, by attributes of its layers
        ("falcon", {"hidden_dropout": 0.3, "attention_dropout": 0.3}, {}),  # by its config
        ("granite", {"attention_dropout": 0.3}, {}),
        ("bloom", {"n_head": 2, "n_layer": 2, "hidden_dropout": 0.3, "attention_dropout": 0.3}, {}),  # no positions
    ],
)
def test_a_model_has_no_log_ratio_to_itself(
    tiny_pair: Pair, tmp_path: Path, kind: str, shape: dict[str, Any], values: dict[str, Any]
) -> None:
    checkpoint = one_score.tiny(kind, tmp_path / kind, tiny_pair.teacher, **shape)
    log_ratio_bT = one_score.self_log_ratio(checkpoint, tmp_path, **values)
    assert log_ratio_bT.abs().max() < 1e-4


@pytest.mark.parametrize("reward", ["sequence", "sequence_mean", "sure_tokens", "sure_tokens_soft"])
def test_nor_has_it_over_whole_answers(tiny_pair: Pair, tmp_path: Path, reward: str) -> None:
    checkpoint = one_score.tiny("gpt2", tmp_path / "gpt2", tiny_pair.teacher, **GPT2)
    assert one_score.self_log_ratio(checkpoint, tmp_path, reward=reward).abs().max() < 1e-3


def test_a_batch_of_two_lengths_trains_as_its_rows_do_alone(tiny_pair: Pair, tmp_path: Path) -> None:
    checkpoint = one_score.tiny("gpt2", tmp_path / "gpt2", tiny_pair.teacher, **GPT2)
    answers = [[5, 9, 30, 41, 1], [7, 8, 1]]
    trainer: Any = one_score.distillation_trainer(checkpoint, tmp_path, answers)
    gradients: dict[str, torch.Tensor] = {}
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(
        lambda *args: gradients.update(
            {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
        )
    )
    trainer.args.max_grad_norm = 0.0
    trainer.train()

    alone = load_model(checkpoint)
    total = torch.zeros(())
    for prompt, answer in zip(one_score.PROMPTS, answers, strict=True):
        rendered: Any = alone.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True)
        ids = rendered["input_ids"]
        logprobs_TV = alone.model(input_ids=torch.tensor([[*ids, *answer]])).logits[0].log_softmax(-1)
        total = total - logprobs_TV[len(ids) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).sum()
    (total / 8).backward()
    told = next(row["train_loss"] for row in trainer.state.log_history if "train_loss" in row)
    assert told == pytest.approx(float(total.detach()) / 8, abs=1e-4)
    for name, parameter in alone.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_a_student_has_nothing_to_learn_from_itself(tiny_pair: Pair, tmp_path: Path) -> None:
    checkpoint = one_score.tiny("opt", tmp_path / "opt", tiny_pair.teacher, **OPT)
    trainer = one_score.distillation_trainer(checkpoint, tmp_path, [[5], [6]], method="opd_rkl")
    trainer.train()
    told = next(row["train_loss"] for row in trainer.state.log_history if "train_loss" in row)
    assert abs(told) < 1e-6


@pytest.mark.parametrize("broken", [-torch.inf, torch.nan])
def test_a_target_that_gives_no_number_ends_the_training_by_name(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: float
) -> None:
    monkeypatch.setattr(
        "distillknob.calibration.rewards.sequence.answers_logprob",
        lambda *args, **named: torch.tensor([-1.0, broken, -2.0, -3.0]),
    )
    model = load_model(tiny_pair.student)
    trainer = one_score.calibration_trainer(model, load_model(tiny_pair.teacher), tmp_path)
    with pytest.raises(RunFailedError, match=r"step 0: the calibration reward with target .* for 1 of 4 samples"):
        trainer.train()


def test_a_model_given_to_a_trainer_itself_is_refused_as_when_it_is_loaded(tiny_pair: Pair, tmp_path: Path) -> None:
    model = load_model(tiny_pair.student)
    model.model.config.index_topk = 8
    with pytest.raises(BadInputError, match="sparse attention"):
        one_score.calibration_trainer(model, load_model(tiny_pair.teacher), tmp_path)


@pytest.mark.parametrize("stage", ["calibrate", "distill"])
def test_rollouts_follow_no_setting_of_the_checkpoint(tiny_pair: Pair, tmp_path: Path, stage: str) -> None:
    folders = {"plain": tiny_pair.student, "bent": one_score.bent(tiny_pair.student, tmp_path / "bent")}
    drawn = {name: one_score.rollouts(stage, folder, tmp_path / name) for name, folder in folders.items()}
    assert drawn["bent"] == drawn["plain"]
    assert len({tuple(ids) for ids in drawn["plain"]}) > 10
    # and the settings stay the checkpoint's
    assert load_model(folders["bent"]).model.generation_config.no_repeat_ngram_size == 2


def test_a_third_end_of_a_checkpoint_still_ends_its_rollouts(tiny_pair: Pair, tmp_path: Path) -> None:
    likely = one_score.rollouts("distill", tiny_pair.student, tmp_path / "plain")[0][0]
    folder = one_score.bent(tiny_pair.student, tmp_path / "bent", eos_token_id=[1, likely], min_p=0.5)
    drawn = one_score.rollouts("distill", folder, tmp_path / "again")
    assert all(likely not in ids[:-1] for ids in drawn) and any(ids[-1] == likely for ids in drawn)


def test_rollouts_are_drawn_without_the_dropout_that_trains(tiny_pair: Pair, tmp_path: Path) -> None:
    checkpoint = one_score.tiny("opt", tmp_path / "opt", tiny_pair.teacher, **OPT)
    plain = one_score.tiny(
        "opt",
        tmp_path / "plain",
        tiny_pair.teacher,
        **{**OPT, "dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0},
    )
    seen = []
    for folder in (checkpoint, plain):
        trainer: Any = one_score.distillation_trainer(
            folder, tmp_path, [[5], [6]], method="opd_rkl", disable_dropout=False, use_peft=True, lora_dropout=0.3
        )
        trainer.model.train()
        torch.manual_seed(0)
        seen.append(trainer._generate_single_turn([[5, 6], [5, 6, 7]], None, {}))
        assert trainer.model.training
    assert seen[0] == seen[1]


def test_what_is_saved_has_the_dropout_of_the_original(tiny_pair: Pair, tmp_path: Path) -> None:
    checkpoint = one_score.tiny("opt", tmp_path / "opt", tiny_pair.teacher, **OPT)
    trainer: Any = one_score.distillation_trainer(checkpoint, tmp_path, [[5], [6]])
    assert trainer.model.config.dropout == 0.0
    trainer.save_model(str(tmp_path / "saved"))
    assert AutoConfig.from_pretrained(tmp_path / "saved").dropout == pytest.approx(0.3)
    assert trainer.model.config.dropout == 0.0


def test_a_model_that_is_random_in_ways_that_are_not_known_is_refused(tiny_pair: Pair, tmp_path: Path) -> None:
    model: Any = load_model(one_score.tiny("gpt2", tmp_path / "gpt2", tiny_pair.teacher, **GPT2)).model
    model.transformer.wte.register_forward_hook(
        lambda module, args, output: output + torch.randn_like(output) if module.training else output
    )
    with pytest.raises(BadInputError, match=r"'gpt2'.*random in training"):
        silence(model)


def test_positions_count_on_behind_a_cache_and_are_left_as_they_are_passed(tiny_pair: Pair, tmp_path: Path) -> None:
    model: Any = load_model(one_score.tiny("gpt2", tmp_path / "gpt2", tiny_pair.teacher, **GPT2)).model
    ids, mask = torch.tensor([[0, 0, 5, 6, 7], [9, 8, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([[5, 6, 7]])).logits[0]
        unnumbered = model(input_ids=ids, attention_mask=mask).logits[0, 2:]
        for _ in range(2):
            number_positions(model)
        whole = model(input_ids=ids, attention_mask=mask).logits[0, 2:]
        read = model(input_ids=ids[:, :4], attention_mask=mask[:, :4], use_cache=True)
        last = model(input_ids=ids[:, 4:], attention_mask=mask, past_key_values=read.past_key_values).logits[0]
        passed = model(input_ids=ids, attention_mask=mask, position_ids=torch.arange(5)[None]).logits[0, 2:]
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == 2  # the model and its body
    torch.testing.assert_close(whole, alone)
    torch.testing.assert_close(last, alone[2:])
    torch.testing.assert_close(passed, unnumbered)
    assert (unnumbered - alone).abs().max() > 0.1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"top_p": 0.9}, "top_p=0.9: rollouts are drawn"),
        ({"top_k": 20}, "top_k=20"),
        ({"min_p": 0.1}, "min_p=0.1"),
        ({"repetition_penalty": 1.1}, "repetition_penalty=1.1"),
        ({"generation_kwargs": {"temperature": 0.5}}, "generation_kwargs=.*temperature"),
        ({"generation_kwargs": json.dumps({"num_beams": 2})}, "generation_kwargs=.*num_beams"),
        ({"vllm_structured_outputs_regex": "[0-9]+"}, "vllm_structured_outputs_regex="),
        ({"cache_implementation": "quantized"}, "cache_implementation='quantized'"),
    ],
)
def test_sampling_options_that_bend_rollouts_are_refused(values: dict[str, Any], told: str) -> None:
    for config in (CalibrationConfig, DistillConfig):
        with pytest.raises(BadInputError, match=told):
            config(**values)
        config(top_p=1.0, top_k=-1, min_p=0.0, generation_kwargs={}, cache_implementation="dynamic")


@pytest.mark.parametrize(
    ("config", "values", "told"),
    [
        (CalibrationConfig, {"disable_dropout": False}, "disable_dropout=False: with dropout"),
        (CalibrationConfig, {"use_peft": True, "lora_dropout": 0.3}, "lora_dropout=0.3: with dropout"),
        (CalibrationConfig, {"use_bias_correction_kl": False}, "KL"),
        (CalibrationConfig, {"use_transformers_continuous_batching": True}, "no run could be repeated"),
        (DistillConfig, {"use_peft": True, "lora_dropout": 0.3}, "disable_dropout to false"),
        (DistillConfig, {"method": "sft", "temperature": 0.7}, "temperature=0.7"),
        (DistillConfig, {"method": "spans", "temperature": 0.7}, "temperature=0.7"),
    ],
)
def test_settings_that_would_blur_a_score_or_do_nothing_are_refused(
    config: type[Any], values: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadInputError, match=told):
        config(**values)


def test_the_answer_of_one_model_is_scored_alike_in_a_batch(tiny_pair: Pair, tmp_path: Path) -> None:
    model = load_model(one_score.tiny("gpt2", tmp_path / "gpt2", tiny_pair.teacher, **GPT2))
    answers = [[5, 9, 30, 41, 1], [7, 8, 1]]
    together = token_logprobs(model, one_score.PROMPTS, answers)
    for prompt, answer, scored in zip(one_score.PROMPTS, answers, together, strict=True):
        torch.testing.assert_close(scored, token_logprobs(model, [prompt], [answer])[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stage", ["calibrate", "distill"])
def test_training_keeps_attention_from_cudnn(tiny_pair: Pair, tmp_path: Path, stage: str) -> None:
    """Its gradients are NaN at some lengths (`attention_without_cudnn`); `test_gpu_models.py` has one such case."""
    enabled: list[bool] = []

    class Watch(TrainerCallback):
        def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
            enabled.append(torch.backends.cuda.cudnn_sdp_enabled())

        on_step_end = on_substep_end

    if stage == "calibrate":
        model = load_model(tiny_pair.teacher)
        trainer: Any = one_score.calibration_trainer(model, load_model(tiny_pair.teacher), tmp_path)
    else:
        trainer = one_score.distillation_trainer(tiny_pair.teacher, tmp_path, [[5, 6, 7]] * len(one_score.PROMPTS))
    trainer.add_callback(Watch())
    before = torch.backends.cuda.cudnn_sdp_enabled()
    trainer.train()
    assert before and enabled and not any(enabled)
    assert torch.backends.cuda.cudnn_sdp_enabled()
