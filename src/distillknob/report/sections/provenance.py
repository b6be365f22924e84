"""This section tells how the page's figures were made: command, environment, seeds, versions, hashes, config.

Left out on purpose: verifying the manifests (hashing the checkpoints of a real pair takes minutes; the page gives the
hash of each manifest, and `verify_manifest` checks what it holds).
"""

from __future__ import annotations

from distillknob.report.drawing.markup import (
    MISSING,
    Child,
    Html,
    Section,
    count,
    details,
    join,
    mapping,
    number,
    table,
    tag,
    text,
)
from distillknob.report.names import signed_eta
from distillknob.report.read import RunData, Source

_PAPER = "https://arxiv.org/abs/2604.18963"


def provenance_section(source: Source) -> Section:
    """Show all that is needed to make the page's figures again, and to see that nothing has changed since."""
    main = source.main
    hashes: list[list[Child]] = [
        [name, tag("code", _relative(source, run)), tag("code", run.manifest_hash or "not finished")]
        for name, run in source.all_runs().items()
    ]
    config = (main.path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    body = [
        _facts(source),
        tag("h3", "Runs and the SHA-256 of their manifests"),
        table(["Run", "Directory", "manifest.json"], hashes, numeric_from=9),
        details("The resolved config, a recipe that repeats the run", tag("pre", config)),
        tag("h3", "What this is a reconstruction of"),
        tag(
            "p",
            "The method is a reconstruction of “Distillation Traps and Guards: A Calibration Knob for LLM "
            "Distillability” (",
            tag("a", "arXiv 2604.18963", href=_PAPER, rel="noreferrer"),
            "), made without the paper's code. No figure on this page is the paper's: each was measured in the runs "
            "above.",
        ),
    ]
    return Section("provenance", "How this was made", _sentence(main), join(*body))


def _sentence(main: RunData) -> str:
    seconds = number(main.result.get("seconds"))
    took = f" It took {_duration(seconds)}." if seconds is not None else ""
    state = "finished" if main.finished else "has not finished: what is there is shown"
    return f"The {main.stage} run in {main.path.name or main.path} {state}.{took}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _facts(source: Source) -> Html:
    main = source.main
    result, environment, config = main.result, main.environment, main.run.config
    pair, etas = mapping(result.get("pair")), mapping(result.get("eta"))
    argv = environment.get("argv")
    command = result.get("command") or (" ".join(map(str, argv)) if isinstance(argv, list) else None)
    seeds = result.get("seeds", result.get("seed", config.get("seed")))
    gpus = environment.get("gpus")
    turned = ", ".join(signed_eta(value) for value in etas.values())
    # A student's run knows its teacher's η and target by the record in the teacher's folder.
    record = mapping(result.get("teacher_record"))
    own = result.get("eta", record.get("eta"))
    target = record.get("target") if source.main.stage == "distill" else pair.get("target") or config.get("target")
    versions = ", ".join(f"{name} {text(value)}" for name, value in mapping(environment.get("versions")).items())
    facts: list[tuple[str, Child]] = [
        ("Command", tag("code", text(command))),
        ("Teacher", text(pair.get("teacher") or result.get("teacher") or config.get("teacher"))),
        ("Student", text(pair.get("student") or result.get("student") or config.get("student"))),
        ("Calibration target", text(target)),
        ("η", turned or signed_eta(own)),
        ("Seeds", ", ".join(map(str, seeds)) if isinstance(seeds, list) else text(seeds)),
        ("Started", text(environment.get("started"))),
        ("Commit", tag("code", text(environment.get("commit")))),
        ("Machine", f"{text(environment.get('platform'))}, {count(environment.get('cpus'))} CPUs"),
        ("GPUs", ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else "none"),
        ("Python", text(environment.get("python"))),
        ("Versions", versions),
    ]
    return tag("dl", [(tag("dt", name), tag("dd", value or MISSING)) for name, value in facts], class_="facts")


def _relative(source: Source, run: RunData) -> str:
    try:
        return run.path.relative_to(source.main.path.parent).as_posix()
    except ValueError:  # a run that lies elsewhere
        return str(run.path)
