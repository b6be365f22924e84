"""Put an adapter that a run trained into the library, to be fetched as a taught model (`zoo.taught`).

    python benchmarks/taught.py runs/smollm2-teacher/model smollm2-teacher

Its weights are rounded to bfloat16, in which the merged model is saved too. The card (README.md) is written by hand and
is left as it is. How both shipped adapters were trained: docs/research/published-model.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from distillknob.zoo.taught import ADAPTERS, WEIGHTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path, help="the model/ of a run with --use-peft")
    parser.add_argument("name", help="what it is called in the library")
    arguments = parser.parse_args()
    folder = ADAPTERS / arguments.name
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(arguments.adapter / WEIGHTS)
    save_file({name: weight.to(torch.bfloat16) for name, weight in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    config = json.loads((arguments.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None  # another folder on every machine: zoo.fetch knows the base
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{folder}: {(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
