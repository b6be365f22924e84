"""The config of `calibrate`: GRPOConfig and what the knob adds, checked before any work starts.

Left out on purpose: sampling at temperatures other than 1 (TRL divides log-probabilities by the temperature, so the
log-ratio would be that of another distribution), and whatever else bends rollouts or blurs a score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from trl import GRPOConfig  # type: ignore[attr-defined]

from distillknob.config.checks import check_at_least_one
from distillknob.config.inherited import check_inherited
from distillknob.config.shared import BoundedAnswers, EngineOptions
from distillknob.errors import BadInputError
from distillknob.models.adapters import AdapterOptions
from distillknob.models.load import check_device
from distillknob.training.config import agree_on_engine, as_dict, check_installed, on_this_machine
from distillknob.training.entropy_band import EntropyBand
from distillknob.training.rollouts import check_unbent

Reward = Literal["sequence", "sequence_mean", "token", "sure_tokens", "sure_tokens_soft", "co_distilled", "influence"]


@dataclass
class CalibrationConfig(BoundedAnswers, EngineOptions, AdapterOptions, GRPOConfig):
    """Config of `calibrate`: GRPOConfig and what the knob adds. Raises BadInputError for values that can't work."""

    answer_field: ClassVar[str] = "max_completion_length"

    teacher: str = field(default="zoo:teacher", metadata={"help": "Model to calibrate: folder, hub id or zoo:NAME."})
    target: str = field(
        default="zoo:student", metadata={"help": "Calibration target π_C: the student, or a proxy for students."}
    )
    target_url: str | None = field(
        default=None,
        metadata={
            "help": "API root of a server that scores for the target (vLLM, or OpenAI-compatible with prompt "
            "log-probabilities); `target` then names its tokenizer."
        },
    )
    target_name: str | None = field(
        default=None, metadata={"help": "The target's name on that server. Default: `target`."}
    )
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems are sampled."})
    problems: int = field(default=2000, metadata={"help": "Problems per task, from its train split."})
    eta: float = field(
        default=-0.5,
        metadata={
            "help": "The knob η. Below 0: towards the target, easier to learn from. Above 0: away from it, harder to"
            " copy."
        },
    )
    gate: bool = field(
        default=True,
        metadata={
            "help": "Give the calibration reward only to samples that are right and finished. Without this, η > 0 "
            "can destroy the teacher."
        },
    )
    right_at: float = field(default=1.0, metadata={"help": "Task reward from which a finished sample counts as right."})
    calibration_clip: float = field(
        default=3.0, metadata={"help": "Where the z-score of the calibration reward within a group is clipped."}
    )
    reward: Reward = field(
        default="sure_tokens",
        metadata={
            "help": "The calibration reward. sure_tokens: the log-ratio to the target over the tokens to which the "
            "original teacher gave more than 0.9 (sure_tokens_soft: weighted by its probability to the fourth). "
            "sequence: over whole answers, as in the paper (sequence_mean: a token; token: each token's own). "
            "co_distilled: to a target that keeps learning from the teacher's answers. influence: what learning an "
            "answer does to the target's own score."
        },
    )
    more_targets: list[str] = field(
        default_factory=list,
        metadata={"help": "Further targets. The reward is then the mean over all of them."},
    )
    calibration_scale: Literal["group", "signal"] = field(
        default="group",
        metadata={
            "help": "What the calibration reward is divided by. group: its deviation within the group. signal: the "
            "batch's median deviation where that is larger, so that groups without a signal don't push as "
            "hard as others."
        },
    )
    task_term: Literal["reward", "hold"] = field(
        default="reward",
        metadata={
            "help": "reward: the task's reward counts throughout. hold: it counts only as far as the teacher's score"
            " has dropped, so that the task doesn't pull against η."
        },
    )
    co_distilled_steps: int = field(
        default=30, metadata={"help": "With reward co_distilled: SFT steps that the target takes each time."}
    )
    co_distilled_every: int = field(
        default=5, metadata={"help": "With reward co_distilled: training steps of the teacher in between."}
    )
    co_distilled_learning_rate: float = field(
        default=1e-5, metadata={"help": "With reward co_distilled: the target's learning rate."}
    )
    co_distilled_batch_size: int = field(
        default=32, metadata={"help": "With reward co_distilled: answers in each of the target's steps."}
    )
    co_distilled_from: Literal["right", "selected"] = field(
        default="right",
        metadata={
            "help": "With reward co_distilled: what the target learns from. right: all right answers. selected: each"
            " group's right answer that it finds likeliest, as an extractor that selects would."
        },
    )
    influence_problems: int = field(
        default=200, metadata={"help": "With reward influence: problems per task that the target answers itself."}
    )
    influence_samples: int = field(default=8, metadata={"help": "With reward influence: its answers to each."})
    anchor: Literal["loss", "reward"] = field(
        default="loss",
        metadata={
            "help": "Where the KL to the original counts. loss: in the loss (TRL's k3 estimate). reward: it is taken"
            " off the reward (k1)."
        },
    )
    shuffle_calibration: bool = field(
        default=False,
        metadata={
            "help": "Control experiment: shuffle the calibration rewards among a group's right samples. Their size "
            "stays, their meaning goes."
        },
    )
    target_device: str | None = field(
        default=None, metadata={"help": "Device of the target, such as cpu or cuda:1. Default: the teacher's."}
    )
    advantage: Literal["unscaled", "trl"] = field(
        default="unscaled",
        metadata={
            "help": "unscaled: leave the advantage as it is. trl: whiten it over the batch as TRL does, which "
            "cancels |η|."
        },
    )
    entropy_band: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Hold the policy's entropy in a band (Entrocraft): lower and upper bound at the start, then at the "
            "end, in nats a token, e.g. 0.6 0.7 0.4 0.5. Samples that drive it further out are left out. Default: none."
        },
    )
    entropy_schedule: Literal["linear", "cosine"] = field(
        default="linear", metadata={"help": "How the band moves from its start to its end."}
    )
    guard: bool = field(
        default=True,
        metadata={"help": "Watch the teacher's task score on held-out problems, and stop when it drops too far."},
    )
    utility_tolerance: float = field(
        default=0.01,
        metadata={"help": "Drop of a task's score that the guard allows, as a fraction: 0.01 is one point."},
    )
    guard_steps: int = field(default=5, metadata={"help": "Training steps between two looks of the guard."})
    guard_problems: int = field(
        default=300, metadata={"help": "Held-out problems per task, on which the teacher is scored before and after."}
    )
    guard_problems_max: int | None = field(
        default=None,
        metadata={
            "help": "Up to so many per task are drawn while fewer can't decide whether the score dropped. Default: "
            "eight times guard_problems."
        },
    )
    guard_samples: int = field(default=4, metadata={"help": "Samples per problem for the guard."})
    beta: float = field(
        default=0.1, metadata={"help": "Weight, at the start, of the KL that anchors the teacher to the original."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Must be 1, so that the teacher is sampled as students see it."}
    )
    disable_dropout: bool = field(
        default=True, metadata={"help": "Train without dropout, which would blur both log-probabilities."}
    )
    max_completion_length: int | None = field(
        default=None, metadata={"help": "Longest answer, in tokens. Default: the tasks' own."}
    )

    def __post_init__(self) -> None:
        if not math.isfinite(self.eta):
            raise BadInputError(f"eta={self.eta}: must be a finite number, e.g. -0.5 or 0.5")
        if self.temperature != 1.0:
            raise BadInputError(f"temperature={self.temperature}: calibration is defined at 1, the teacher as it is")
        if self.num_generations is not None and self.num_generations < 2:
            raise BadInputError(
                f"num_generations={self.num_generations}: a group of one has no z-score, use at least 2 (8 is usual)"
            )
        for name, choices in (
            ("reward", get_args(Reward)),
            ("calibration_scale", ("group", "signal")),
            ("task_term", ("reward", "hold")),
            ("co_distilled_from", ("right", "selected")),
            ("advantage", ("unscaled", "trl")),
            ("anchor", ("loss", "reward")),
            ("entropy_schedule", ("linear", "cosine")),
        ):
            if getattr(self, name) not in choices:
                raise BadInputError(f"{name}={getattr(self, name)!r}: choices are {', '.join(choices)}")
        self._check_band()
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")
        if self.guard and self.beta <= 0:
            raise BadInputError(
                f"beta={self.beta}: the guard works by the anchor, so beta must be above 0 (or --no-guard)"
            )
        if self.anchor == "reward" and self.beta <= 0:
            raise BadInputError(f"anchor='reward' with beta={self.beta}: there is no anchor to put there, leave it out")
        if self.mask_truncated_completions:
            raise BadInputError(
                "mask_truncated_completions would hide answers that were cut from one side of the log-ratio: leave it "
                "out, and give answers the room they need (max_completion_length)"
            )
        for name, value, off in (
            ("disable_dropout", self.disable_dropout, True),
            ("lora_dropout", self.lora_dropout, 0.0),
            ("neftune_noise_alpha", self.neftune_noise_alpha, None),
        ):
            if value != off:
                raise BadInputError(
                    f"{name}={value}: with dropout or noise one text has another log-probability each time, and the "
                    "log-ratio would be that noise: leave it out"
                )
        if not self.use_bias_correction_kl:
            raise BadInputError(
                "use_bias_correction_kl=False: the anchor's gradient would be that of KL(original ‖ policy), and not "
                "of the KL(policy ‖ original) that is told and held: leave it out"
            )
        if self.reward == "token" and self.shuffle_calibration:
            raise BadInputError("shuffle_calibration deals out rewards of whole samples: use another reward than token")
        if self.reward in ("sure_tokens", "sure_tokens_soft") and self.beta <= 0:
            raise BadInputError(
                f"reward={self.reward!r} with beta={self.beta}: the original's probabilities say which tokens count, "
                "and without an anchor it is not there: set beta above 0 (1e-6 anchors nothing)"
            )
        if self.target_url is not None and self.more_targets:
            raise BadInputError(
                "target_url serves one target: name further ones as URL#NAME in more_targets and in target, without "
                "target_url"
            )
        if self.influence_samples < 2:
            raise BadInputError(
                f"influence_samples={self.influence_samples}: a student's answers to a problem are compared with one "
                "another, use at least 2"
            )
        if not self.co_distilled_learning_rate > 0:
            raise BadInputError(
                f"co_distilled_learning_rate={self.co_distilled_learning_rate}: must be above 0, e.g. 1e-5"
            )
        if self.target_device is not None:
            check_device("target_device", self.target_device)
        check_at_least_one(
            self,
            *("problems", "guard_steps", "guard_problems", "guard_samples", "influence_problems"),
            *("co_distilled_steps", "co_distilled_every", "co_distilled_batch_size"),
        )
        if self.guard_problems_max is not None and self.guard_problems_max < self.guard_problems:
            raise BadInputError(
                f"guard_problems_max={self.guard_problems_max}: the first look takes {self.guard_problems} problems "
                "(guard_problems) already: give at least as many"
            )
        if not 0 < self.utility_tolerance < 1:
            raise BadInputError(f"utility_tolerance={self.utility_tolerance}: a share of the score, between 0 and 1")
        agree_on_engine(self)
        check_inherited(self)
        on_this_machine(self)
        super().__post_init__()
        check_unbent(self)
        if self.scale_rewards != "group" or self.multi_objective_aggregation != "sum_then_normalize":
            raise BadInputError(
                f"scale_rewards={self.scale_rewards!r}, multi_objective_aggregation="
                f"{self.multi_objective_aggregation!r}: the advantage is z_G(task) + η · z_G(log-ratio), on the sum of "
                "the rewards: leave both out"
            )
        check_installed(self)

    def _check_band(self) -> None:
        """Raise BadInputError for a band of entropy that is none."""
        if self.entropy_band and len(self.entropy_band) != 4:
            raise BadInputError(
                f"entropy_band={self.entropy_band}: give four numbers, the lower and the upper bound at the start and "
                "at the end, e.g. [0.6, 0.7, 0.4, 0.5], or none"
            )
        if (fault := self.band.fault if self.band is not None else None) is not None:
            raise BadInputError(f"entropy_band={self.entropy_band}: {fault}")

    @property
    def band(self) -> EntropyBand | None:
        """The band that the policy's entropy is held in; None: it goes as it likes."""
        if not self.entropy_band:
            return None
        low_start, high_start, low_end, high_end = self.entropy_band
        return EntropyBand(low_start, high_start, low_end, high_end, cosine=self.entropy_schedule == "cosine")

    @property
    def guard_budget(self) -> int:
        """The most problems a task that the guard decides by."""
        return self.guard_problems_max or 8 * self.guard_problems

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [self.teacher, *self.targets]

    @property
    def targets(self) -> list[str]:
        """The calibration targets."""
        return [self.target, *self.more_targets]

    @property
    def models_sampled(self) -> list[str]:
        """The teacher, which writes the guard's answers."""
        return [self.teacher]

    @property
    def trains_on_own_samples(self) -> bool:
        return True

    @property
    def revisions_read(self) -> list[tuple[str, str | None]]:
        """The models that the stage reads, each with its revision on the hub; None stands for `main`."""
        return [
            (self.teacher, as_dict(self.model_init_kwargs).get("revision")),
            *((target, None) for target in self.targets),
        ]
