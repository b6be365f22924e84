"""One process of test_accelerate_recipes.py: trains as under `accelerate launch --config_file RECIPE`, on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import process_worker


def settings_of(recipe: Path, processes: int) -> dict[str, str]:
    """What `accelerate launch` with this configuration puts into the environment of its processes, by its own parser;
    on a CPU, and in float32, so that processes can be compared to 1e-5."""
    import os

    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    words = ["--config_file", str(recipe), "--num_processes", str(processes), "--num_machines", "1"]
    words += ["--mixed_precision", "no", "--main_process_port", "0", "-m", "distillknob"]
    arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    before = dict(os.environ)
    if arguments.use_deepspeed:
        assert defaults is not None
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, environment = prepare_deepspeed_cmd_env(arguments)
    else:
        environment = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in environment.items() if before.get(name) != value}


def let_cpus_share() -> None:
    """Let Accelerate shard over CPU processes: it takes FSDP for accelerators alone, and would silently copy."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    begin = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def train(*arguments: Any) -> None:
    let_cpus_share()
    process_worker.train(*arguments)


def command(words: list[str]) -> int:
    """The command line, with processes that share weights."""
    from distillknob.cli.main import main

    let_cpus_share()
    return main(words)
