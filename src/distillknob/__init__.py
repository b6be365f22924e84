"""distillknob: why distillation fails, and a knob on the teacher that makes it teach well or not at all.

What `from distillknob import …` offers is the public interface; everything else may move. Importing this package loads
nothing heavy: a name is looked up when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillknob.attacks.config import AttackConfig as AttackConfig
    from distillknob.attacks.stage import attack as attack
    from distillknob.calibration.config import CalibrationConfig as CalibrationConfig
    from distillknob.calibration.stage import calibrate as calibrate
    from distillknob.calibration.trainer import CalibrationTrainer as CalibrationTrainer
    from distillknob.defences.config import DefendConfig as DefendConfig
    from distillknob.defences.stage import defend as defend
    from distillknob.diagnosis.compare import compare_diagnoses as compare_diagnoses
    from distillknob.diagnosis.config import DiagnoseConfig as DiagnoseConfig
    from distillknob.diagnosis.finding import Finding as Finding
    from distillknob.diagnosis.stage import diagnose as diagnose
    from distillknob.distillation.cache.config import CacheConfig as CacheConfig
    from distillknob.distillation.cache.files import TeacherCache as TeacherCache
    from distillknob.distillation.cache.stage import cache_teacher as cache_teacher
    from distillknob.distillation.config import DistillConfig as DistillConfig
    from distillknob.distillation.stage import distill as distill
    from distillknob.distillation.trainer import DistillTrainer as DistillTrainer
    from distillknob.divergences.dense import divergence as divergence
    from distillknob.divergences.fused import fused_divergence as fused_divergence
    from distillknob.errors import BadInputError as BadInputError
    from distillknob.errors import RunFailedError as RunFailedError
    from distillknob.evaluation.config import EvaluateConfig as EvaluateConfig
    from distillknob.evaluation.memorization.config import MemorizationConfig as MemorizationConfig
    from distillknob.evaluation.memorization.stage import memorization as memorization
    from distillknob.evaluation.stage import evaluate as evaluate
    from distillknob.experiments.compare.config import CompareConfig as CompareConfig
    from distillknob.experiments.compare.stage import compare as compare
    from distillknob.experiments.demo import DemoConfig as DemoConfig
    from distillknob.experiments.demo import demo as demo
    from distillknob.experiments.sweep import SweepConfig as SweepConfig
    from distillknob.experiments.sweep import sweep as sweep
    from distillknob.fingerprints.config import FingerprintConfig as FingerprintConfig
    from distillknob.fingerprints.stage import fingerprint as fingerprint
    from distillknob.gates.gate import gate as gate
    from distillknob.methods import METHODS as METHODS
    from distillknob.methods import Method as Method
    from distillknob.models.base import LanguageModel as LanguageModel
    from distillknob.models.load import load_model as load_model
    from distillknob.models.sampling import Sampling as Sampling
    from distillknob.models.sampling import generate as generate
    from distillknob.models.scoring import token_logprobs as token_logprobs
    from distillknob.pruning.config import PruneConfig as PruneConfig
    from distillknob.pruning.stage import prune as prune
    from distillknob.report.page import build_report as build_report
    from distillknob.runs.run import Run as Run
    from distillknob.runs.run import load_run as load_run
    from distillknob.stats import interval as interval
    from distillknob.stats import paired_difference as paired_difference
    from distillknob.stats import pass_at_k as pass_at_k
    from distillknob.tasks import get_task as get_task
    from distillknob.tasks import register_task as register_task
    from distillknob.tasks import task_names as task_names
    from distillknob.tasks.base import Example as Example
    from distillknob.tasks.base import Task as Task

# Where each public name lives: the imports above, which type checkers read, as they are done once a name is asked for.
_HOMES = {
    "attacks.config": "AttackConfig",
    "attacks.stage": "attack",
    "calibration.config": "CalibrationConfig",
    "calibration.stage": "calibrate",
    "calibration.trainer": "CalibrationTrainer",
    "defences.config": "DefendConfig",
    "defences.stage": "defend",
    "diagnosis.compare": "compare_diagnoses",
    "diagnosis.config": "DiagnoseConfig",
    "diagnosis.finding": "Finding",
    "diagnosis.stage": "diagnose",
    "distillation.cache.files": "TeacherCache",
    "distillation.config": "DistillConfig",
    "distillation.stage": "distill",
    "distillation.cache.config": "CacheConfig",
    "distillation.cache.stage": "cache_teacher",
    "distillation.trainer": "DistillTrainer",
    "divergences.dense": "divergence",
    "divergences.fused": "fused_divergence",
    "errors": "BadInputError RunFailedError",
    "evaluation.config": "EvaluateConfig",
    "evaluation.memorization.config": "MemorizationConfig",
    "evaluation.memorization.stage": "memorization",
    "evaluation.stage": "evaluate",
    "experiments.demo": "DemoConfig demo",
    "experiments.compare.config": "CompareConfig",
    "experiments.compare.stage": "compare",
    "experiments.sweep": "SweepConfig sweep",
    "fingerprints.config": "FingerprintConfig",
    "fingerprints.stage": "fingerprint",
    "gates.gate": "gate",
    "methods": "METHODS Method",
    "models.base": "LanguageModel",
    "models.load": "load_model",
    "models.sampling": "Sampling generate",
    "models.scoring": "token_logprobs",
    "pruning.config": "PruneConfig",
    "pruning.stage": "prune",
    "report.page": "build_report",
    "runs.run": "Run load_run",
    "stats": "interval paired_difference pass_at_k",
    "tasks": "get_task register_task task_names",
    "tasks.base": "Example Task",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *_HOME_OF]

__version__ = version("distillknob")


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
