"""What the two training stages share: their config as plain values, their log, their bar, and saving a model.

Left out on purpose: a training loop. Both stages are TRL Trainers; these are callbacks and small functions around them.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl.trainer.utils import RepeatSampler

from distillknob.config.recipe import resolved
from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.base import LanguageModel
from distillknob.models.checkpoint_files import is_adapter
from distillknob.models.forward import silence
from distillknob.models.load import load_model
from distillknob.models.names import name_zoo_base, resolve
from distillknob.runs.files import atomic_directory, atomic_write, disk_errors, json_bytes
from distillknob.runs.model_record import RECORD
from distillknob.runs.run import Run
from distillknob.runtime.processes import connect, notice, process_index, wait
from distillknob.runtime.progress import progress
from distillknob.runtime.template_date import undated

# Where a run is kept doesn't belong to what it is. `generation_batch_size` says what `steps_per_generation` says, for
# one number of processes; TRL fills in both, and refuses both.
_PLACES = {"output_dir", "logging_dir", "run_name", "hub_model_id", "disable_tqdm", "generation_batch_size"}


def plain_config(config: Any) -> dict[str, Any]:
    """What stands in `config.yaml`: our own fields, and the inherited ones that differ from their defaults."""
    default = type(config)()
    given = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.init and field.name not in _PLACES and getattr(config, field.name) != getattr(default, field.name)
    }
    kept = resolved(type(config), given)
    return {name: value for name, value in kept.items() if name not in _PLACES}


# Are configs made for another machine, whose accelerator and packages this one hasn't?
_ELSEWHERE: ContextVar[bool] = ContextVar("elsewhere", default=False)


@contextmanager
def for_another_machine(elsewhere: bool = True) -> Iterator[None]:
    """Make configs that are only looked at here, as a dry run for a named GPU does: what this machine lacks is no
    reason to refuse them."""
    token = _ELSEWHERE.set(elsewhere)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


def on_this_machine(config: TrainingArguments) -> None:
    """Fill in what depends on the machine before TRL does: bf16 and pinned memory need an accelerator, and several
    processes without one have to be told to Accelerate. Raises BadInputError for a precision that isn't here."""
    connect()
    if _ELSEWHERE.get():
        config.bf16 = config.fp16 = False
        config.tf32 = None
    if not torch.cuda.is_available():
        for name in ("bf16", "fp16"):
            if getattr(config, name) and not config.use_cpu:
                raise BadInputError(
                    f"{name}: this machine has no GPU, and on a CPU {name} is emulated: leave it out, or add --use-cpu "
                    "if you mean it"
                )
        config.bf16 = bool(config.bf16)  # None would mean True to TRL
        config.dataloader_pin_memory = False


def load_trained(name: str, config: Any, *, anchored: bool = False) -> LanguageModel:
    """The model that a stage trains, loaded as TRL would: with `model_init_kwargs`, and in float32 unless these say
    otherwise. Steps at the usual learning rates are lost in the rounding of bfloat16 weights. Under LoRA the model
    stays as it is, so it keeps its checkpoint's type.

    Raises as `check_trainable`, and BadInputError for a model that stays random in training without its dropout.
    """
    check_trainable(name, config, anchored=anchored)
    precise = {} if config.use_peft else {"dtype": "float32"}
    loaded = load_model(name, options={**precise, **(config.model_init_kwargs or {})}, whole=True)
    if config.disable_dropout:
        silence(loaded.model).restore()  # the trainer does it again: what can't be silenced is told before any work
    return loaded


def check_trainable(name: str, config: Any, *, anchored: bool = False) -> None:
    """Raise BadInputError for a LoRA adapter that would get another one, or be `anchored` to itself: PEFT and TRL know
    its base alone, and the first adapter would be lost without a word."""
    if is_adapter(resolve(name)) and (config.use_peft or anchored):
        what = "a second adapter on it" if config.use_peft else "the anchor"
        raise BadInputError(
            f"{name!r} is a LoRA adapter, and {what} would know its base model alone: make it a whole model first "
            "(the run that made it with --merge-adapter), or train another"
        )


def check_installed(config: Any) -> None:
    """Raise BadInputError for a tracker or an engine that the config asks for and that isn't installed: the Trainer
    would say so only once the models are loaded and the first samples drawn."""
    if _ELSEWHERE.get():
        return
    from transformers.integrations.integration_utils import get_available_reporting_integrations
    from trl.import_utils import is_vllm_available

    wanted = config.report_to if isinstance(config.report_to, list) else [config.report_to]
    missing = {name for name in wanted if name} - {"none", "all", *get_available_reporting_integrations()}
    if missing:
        name = min(missing)
        raise BadInputError(f"report_to names {name!r}, which isn't installed: pip install {name}, or leave it out")
    if config.use_vllm and not is_vllm_available():
        raise BadInputError("use_vllm needs vLLM, which isn't installed: pip install 'trl[vllm]', or leave it out")


class EpochSampler(RepeatSampler):
    """TRL's sampler, with an order in each epoch that follows from the seed and the epoch alone.

    TRL draws the order of every epoch from one generator, in turn. A run that is resumed after its first epoch starts
    that generator anew, and would go through the data in another order than an unbroken run.
    """

    @classmethod
    def of(cls, sampler: Any) -> EpochSampler:
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        return cls(**{name: getattr(sampler, name) for name in names})

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        if self.shuffle and self.seed is not None:
            first = epoch == 0  # which is TRL's own order
            self.generator.manual_seed(self.seed if first else random.Random(f"{self.seed}/{epoch}").getrandbits(32))


class RunLogger(TrainerCallback):
    """Writes what the Trainer logs into the run's metrics.jsonl, under our names, one object a step."""

    def __init__(self, run: Run, names: Mapping[str, str]):
        self.run, self.names = run, names

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "train_runtime" in logs:  # the Trainer's own summary at the end
            return
        row: dict[str, Any] = {"step": state.global_step}
        for name, value in logs.items():
            row[self.names.get(name, name)] = float(value) if isinstance(value, str | float | int) else value
        self.run.log(**row)


class StageProgress(TrainerCallback):
    """A bar over the steps with the time left and a few metrics, or lines where stderr is no terminal."""

    def __init__(self, description: str, shown: Mapping[str, str]):
        self.description, self.shown = description, shown
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.bar = progress(self.description, state.max_steps, unit="step", initial=state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if self.bar is not None and logs:
            # TRL logs None for what isn't finite.
            known = {label: logs[name] for name, label in self.shown.items() if logs.get(name) is not None}
            self.bar.set_postfix({label: f"{float(value):.3g}" for label, value in known.items()})

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class FiniteLoss(TrainerCallback):
    """Ends a run whose loss or gradient is NaN or infinite, before the weights are lost in a checkpoint."""

    def __init__(self, run: Run):
        self.run = run

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        broken = [k for k in ("loss", "grad_norm") if k in (logs or {}) and not math.isfinite(float((logs or {})[k]))]
        if broken:
            raise RunFailedError(
                f"{' and '.join(broken)} not finite at step {state.global_step}: the checkpoints before it are kept in "
                f"{args.output_dir}. Lower the learning rate, or look at that step's samples"
            )


@contextmanager
def checkpoint_errors(folder: Path) -> Iterator[None]:
    """Say what a full disk means for the run where the Trainer writes into `folder`: torch and safetensors raise
    errors of their own."""
    try:
        with disk_errors(folder):
            yield
    except (SafetensorError, RuntimeError) as error:
        if not any(sign in str(error) for sign in ("No space left", "PytorchStreamWriter", "quota")):
            raise
        raise RunFailedError(
            f"no space left to write a checkpoint into {folder} ({error}). The checkpoints before it are kept: "
            "free space on that disk, then go on with --resume"
        ) from error


def add_callbacks(trainer: Any, *callbacks: TrainerCallback) -> None:
    """Put our callbacks in place of transformers' bar and printer, which write their logs to stdout."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        trainer.add_callback(callback)


def last_checkpoint(folder: Path, *also: str) -> str | None:
    """The newest whole Trainer checkpoint in a folder (one that holds the files `also` too), or None."""
    needed = ("trainer_state.json", *also)
    whole = [path for path in folder.glob("checkpoint-*") if all((path / name).exists() for name in needed)]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def start_from(run: Run, folder: Path, *also: str, resume: bool) -> str | None:
    """The checkpoint that a training goes on from (`last_checkpoint`), or None where it starts at step 0. Says which
    where the run is `resumed`, and takes the run's log back to that step."""
    checkpoint = last_checkpoint(folder, *also) if resume else None
    step = 0 if checkpoint is None else int(Path(checkpoint).name.split("-")[1])
    if run.resumed:
        why = ": no checkpoint was written before it stopped (save_steps says how often)" if checkpoint is None else ""
        notice(f"{run.path} goes on at step {step}{why}")
    run.drop_metrics_after(-1 if checkpoint is None else step)
    return checkpoint


def save_model(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: str,
    *,
    whole: bool,
    options: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Put a model into `folder` so that it loads by itself: weights (safetensors), tokenizer, model card and what later
    stages have to know of it (`record`, see `model_record`), all of it or nothing. `source` is what a Trainer saved in
    the run, or any model by name, loaded with `options`. An adapter stays one unless `whole` asks for the model with
    the adapter merged into it, in float32. The first process writes, the others wait."""
    if process_index() == 0:
        with atomic_directory(folder) as partial:
            if whole or folder.parent not in Path(source).parents:
                model = load_model(source, dtype="auto", device="cpu", options=options, whole=True).model
                model.save_pretrained(partial)
            else:
                for file in sorted(Path(source).iterdir()):
                    if file.name.startswith(("model", "adapter_", "config.json", "generation_config.json")):
                        shutil.copyfile(file, partial / file.name)
            if not [*partial.glob("model*.safetensors"), *partial.glob("adapter_model*")]:
                raise RunFailedError(
                    f"{source} holds no weights to make a model of: what was trained lies in the checkpoints beside it"
                )
            if is_adapter(str(partial)):
                name_zoo_base(partial)
            with undated(tokenizer):
                tokenizer.save_pretrained(partial)
            (partial / "README.md").write_text(card, encoding="utf-8")
            if record is not None:
                atomic_write(partial / RECORD, json_bytes(record, indent=2) + b"\n")
    wait()


def check_saves_whole(accelerator: Any) -> None:
    """Raise BadInputError for an Accelerate configuration under which the Trainer saves no whole model: the weights
    would be looked for in vain when the training is over."""
    # Accelerate's state has neither plugin where it isn't used.
    kind = getattr(getattr(accelerator.state, "fsdp_plugin", None), "state_dict_type", None)
    if kind is not None and "FULL_STATE_DICT" not in str(kind):
        raise BadInputError(
            f"fsdp_state_dict_type is {kind}, which leaves no whole model: set it to FULL_STATE_DICT in Accelerate's "
            "configuration (see recipes/accelerate)"
        )
    zero = getattr(accelerator.state, "deepspeed_plugin", None)
    if zero is not None and zero.zero_stage == 3 and not zero.zero3_save_16bit_model:
        raise BadInputError(
            "ZeRO-3 without zero3_save_16bit_model leaves no whole model: set it to true in Accelerate's configuration"
        )


def _holds_here(record: logging.LogRecord) -> bool:
    """False for TRL's notice that `model_init_kwargs` are ignored: `load_trained` has read them."""
    return "`model_init_kwargs` will be ignored" not in record.getMessage()


@contextmanager
def refused_by_the_trainer() -> Iterator[None]:
    """What TRL's or transformers' constructor refuses is bad input, like what their configs refuse."""
    for name in ("grpo_trainer", "distillation_trainer"):
        logging.getLogger(f"trl.trainer.{name}").addFilter(_holds_here)
    try:
        yield
    except ValueError as error:
        raise BadInputError(str(error)) from error


def quiet_libraries() -> None:
    """Bars and notices of the libraries, which would drown the stage's own, off; their errors stay on stderr."""
    import datasets
    from transformers.utils import logging

    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    # What a library plans to rename is for its developers and ours; the tests show it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|accelerate")
