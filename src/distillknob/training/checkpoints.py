"""What a training starts from and leaves behind: the model that it trains, its checkpoints, and the model it saves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.base import LanguageModel
from distillknob.models.checkpoint_files import is_adapter
from distillknob.models.forward import silence
from distillknob.models.load import load_model
from distillknob.models.names import name_own_base, resolve
from distillknob.runs.files import atomic_directory, atomic_write, disk_errors, json_bytes
from distillknob.runs.model_record import RECORD
from distillknob.runs.run import Run
from distillknob.runtime.processes import notice, process_index, wait
from distillknob.runtime.template_date import undated
from distillknob.training.config import TrainingConfig, mix_precision, trained_options


def load_trained(name: str, config: TrainingConfig, *, anchored: bool = False) -> LanguageModel:
    """The model that a stage trains, loaded as TRL would: with `model_init_kwargs`, and in float32 unless these say
    otherwise. Steps at the usual learning rates are lost in the rounding of bfloat16 weights. Under LoRA the model
    stays as it is, so it keeps its checkpoint's type. What `config` leaves open of its precision follows from it.

    Raises as `check_trainable`, and BadInputError for a model that stays random in training without its dropout.
    """
    check_trainable(name, config, anchored=anchored)
    loaded = load_model(name, options=trained_options(config), whole=True)
    mix_precision(config, loaded.model.num_parameters())
    if config.disable_dropout:
        silence(loaded.model).restore()  # the trainer does it again: what can't be silenced is told before any work
    return loaded


def check_trainable(name: str, config: TrainingConfig, *, anchored: bool = False) -> None:
    """Raise BadInputError for a LoRA adapter that would get another one, or be `anchored` to itself: PEFT and TRL know
    its base alone, and the first adapter would be lost without a word."""
    if is_adapter(resolve(name)) and (config.use_peft or anchored):
        what = "a second adapter on it" if config.use_peft else "the anchor"
        raise BadInputError(
            f"{name!r} is a LoRA adapter, and {what} would know its base model alone: make it a whole model first "
            "(the run that made it with --merge-adapter), or train another"
        )


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
                name_own_base(partial)
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
