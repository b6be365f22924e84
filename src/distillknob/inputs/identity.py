"""What a run read, by content: its models' weights, tokenizers and settings, its tasks' data, reward models, caches.

A run's config holds names, and what a name stands for changes: a folder is trained again, a file is edited, a branch on
the hub moves. So a run records digests, and is refused to whoever gives the names again for other content.

    folder       SHA-256 of each file that loading reads; of a LoRA adapter its base model's too
    GGUF file    its SHA-256
    hub          the commit that the name stands for
    server       its name alone: nobody here can see its weights, and the record says so
    task         SHA-256 of its files, or of all its examples where they come from the hub; its reward model

Weights are read whole: 16 GB take about ten seconds at the speed of one core, loading them takes no less. What was
hashed once is remembered for the life of the process, under the file's inode, size and both of its times, the second of
which no program can set back. Left out on purpose: samples of large files (a single tensor changed in place must be
seen), times or paths as identity (a copied or touched file is the same), and a memory on disk, which would be trusted
where it had better be asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from distillknob import tasks
from distillknob.errors import BadInputError
from distillknob.models.checkpoint_files import adapter_base, is_adapter
from distillknob.models.names import SERVED, gguf_of, is_chat, resolve, spelt_by
from distillknob.runs.files import digest
from distillknob.runs.records import COMMIT, UNKNOWN, Reads, read_changes
from distillknob.runs.run import Run
from distillknob.runtime.hub import commit_of
from distillknob.runtime.processes import notice, process_index
from distillknob.tasks import RowsTask, Task, get_task

_READ_BY_LOADING = {".json", ".jinja", ".model", ".txt", ".tiktoken", ".safetensors", ".bin", ".pt", ".pth", ".gguf"}
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}
# What a Trainer leaves beside a model, and what people do.
_NOT_READ = {"trainer_state.json", "training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"}
_NOT_READ |= {"all_results.json", "train_results.json", "eval_results.json"}
_DOCUMENTS = {"LICENSE", "NOTICE", "README", "USE_POLICY"}
_OF_A_CACHE = ("config.yaml", "samples.jsonl", "result.json", "topk-*.safetensors")
_FILES = {"key": "key_file", "skills": "skills", "private": "private", "texts": "texts_file"}  # the config's fields
_ITS_FILE = "its file"

_examples: WeakKeyDictionary[RowsTask, str] = WeakKeyDictionary()
# By a task's class and what draws its problems: this library's own code stays what it is while a process runs.
_generated: dict[Any, str] = {}
_OF_A_GENERATOR = 100  # examples a split that stand for a task whose code makes them


def read_by(*configs: Any) -> dict[str, dict[str, str]]:
    """What stages of these configs read: for each model, task, reward model and cache its parts and their digests.

    A config has `models_read` and `tasks`, and perhaps `revisions_read` (models with their revisions), `target_url`,
    `cache`, `traces_file`, `texts_file`, `key_file`, `skills` and `private`. Raises BadInputError for a model, file or
    cache that isn't there.
    """
    read: dict[str, dict[str, str]] = {}
    for config in configs:
        models: list[tuple[str, str | None]] = getattr(
            config, "revisions_read", [(n, None) for n in config.models_read]
        )
        if getattr(config, "target_url", None) is not None:
            models = [model for model in models if model[0] != config.target or model[0] == config.teacher]
            read |= _served(f"{config.target_url}#{config.target_name or config.target}", config.target)
        for name, revision in models:
            read |= _model(name, revision)
        if getattr(config, "cache", None) is not None:
            read[f"cache {config.cache}"] = _cache(config.cache)
        if getattr(config, "traces_file", None) is not None:
            read[f"traces {config.traces_file}"] = _trace_file(config.traces_file)
        if getattr(config, "suite_read", None) is not None:
            name, suite_digest = config.suite_read
            read[f"suite {name}"] = {_ITS_FILE: suite_digest}
        for kind, field in _FILES.items():
            if (file := getattr(config, field, None)) is not None:
                path = Path(file).expanduser()
                if not path.is_file():
                    raise BadInputError(f"{field}={file!r}: there is no such file: name one that is there")
                read[f"{kind} {file}"] = _digests([path])
        for name in config.tasks:
            read |= _task(name)
    return read


def read_again(then: Reads) -> dict[str, dict[str, str]]:
    """What lies now under the names in `then`, which `read_by` returned: for each its parts and their digests. What
    can't be seen from here, such as a server's weights, has no entry.

    Raises BadInputError for what isn't there any more.
    """
    now: dict[str, dict[str, str]] = {}
    for key, parts in then.items():
        kind, _, name = key.removeprefix("reward ").partition(" ")
        if UNKNOWN in parts.values():
            continue
        if COMMIT in parts:
            model, _, revision = name.partition(" at ")
            now[key] = {COMMIT: commit_of(model, revision or None)}
        elif kind in ("model", "tokenizer"):
            now[key] = _checkpoint(name, weights=kind == "model")
        elif kind == "task":
            now[key] = _task(name)[key]
        elif kind == "cache":
            now[key] = _cache(name)
        elif kind == "suite":  # one that ships is this package's, which the gate looks at itself
            now[key] = {_ITS_FILE: digest(Path(name))} if Path(name).is_file() else dict(parts)
        elif kind == "traces" or kind in _FILES:
            file = Path(name).expanduser()
            if not file.is_file():
                raise BadInputError(f"the file of {key} is not there: put it back")
            now[key] = _digests([file])
    return now


def changed_meanwhile(run: Run, *configs: Any) -> list[str]:
    """What `run`, of these configs, read and what isn't any more as it was when the run began: at most one sentence,
    for its result's `notes`, which is told at once too. A model is loaded minutes or hours after it was hashed.

    It is no error: what had been loaded before has been used as it was, and the work is done.
    """
    if process_index() > 0:
        return []
    try:
        changes = read_changes(run.read, read_by(*configs))
    except BadInputError as error:  # it is gone
        changes = [str(error)]
    if not changes:
        return []
    note = (
        f"what this run read changed while it was at work ({'; '.join(changes)}): whether its figures are of what was "
        "there before or after isn't known. Measure anew, into another --output"
    )
    notice(f"warning: {note}")
    return [note]


def _digests(files: Iterable[Path], below: Path | None = None) -> dict[str, str]:
    """The digest of each file by its name, or by its path below a folder."""
    paths = list(files)
    with ThreadPoolExecutor(4) as pool:  # hashing lets go of the interpreter's lock
        values = pool.map(digest, paths)
        return {
            (path.name if below is None else path.relative_to(below).as_posix()): value
            for path, value in zip(paths, values, strict=True)
        }


def _model(name: str, revision: str | None = None) -> dict[str, dict[str, str]]:
    if gguf_of(name) is not None:  # before it is made into a folder, which a complete run doesn't need
        return {f"model {name}": _checkpoint(name)}
    where = resolve(name)
    if where.startswith(SERVED):
        url, _, rest = name.partition("#")
        plain = f"{url}#{rest.partition('#')[0]}"
        return {f"model {plain}": {"weights": UNKNOWN}} if is_chat(name) else _served(plain, spelt_by(name)[0])
    if not Path(where).is_dir():
        at = "" if revision is None else f" at {revision}"
        return {f"model {name}{at}": {COMMIT: commit_of(name, revision)}}
    read = {f"model {name}": _checkpoint(name)}
    if is_adapter(where):
        base, of_base = adapter_base(where)
        try:
            read |= _model(base, of_base)
        except BadInputError as error:
            raise BadInputError(f"the base model of the adapter {name!r}: {error}") from error
    return read


def _served(name: str, tokenizer: str) -> dict[str, dict[str, str]]:
    read = {f"model {name}": {"weights": UNKNOWN}}
    try:
        here = gguf_of(tokenizer) is not None or Path(resolve(tokenizer)).is_dir()
        files = _checkpoint(tokenizer, weights=False) if here else {COMMIT: commit_of(tokenizer)}
    except BadInputError:  # which the stage's check refuses, with the remedy
        return read
    return {**read, f"tokenizer {tokenizer}": files}


def _checkpoint(name: str, *, weights: bool = True) -> dict[str, str]:
    """The digests of a model's files that are here."""
    file = gguf_of(name)
    return _digests([file]) if file is not None else _folder(Path(resolve(name)), weights=weights)


def _folder(folder: Path, *, weights: bool = True) -> dict[str, str]:
    """The files of a checkpoint that loading reads. Of weights in two forms, those that transformers takes."""
    below = [folder, *(folder / name for name in ("additional_chat_templates", "chat_templates"))]
    files = [file for place in below if place.is_dir() for file in sorted(place.iterdir()) if file.is_file()]
    files = [file for file in files if file.suffix in _READ_BY_LOADING and file.name not in _NOT_READ]
    files = [file for file in files if file.stem.upper() not in _DOCUMENTS]
    safe = any(file.suffix == ".safetensors" for file in files)
    wanted = {".safetensors"} if safe else _WEIGHTS
    return _digests((f for f in files if f.suffix not in _WEIGHTS or (weights and f.suffix in wanted)), folder)


def _cache(name: str) -> dict[str, str]:
    return _digests(path for form in _OF_A_CACHE for path in sorted(Path(name).glob(form)))


def _trace_file(name: str) -> dict[str, str]:
    return _digests([Path(name).expanduser()])


def _task(name: str) -> dict[str, dict[str, str]]:
    task = get_task(name)
    paths: list[Path] = list(getattr(task, "files", ()))
    parts: dict[str, str] = {}
    for path in paths:
        files = _below(path) if path.is_dir() else [path]
        named = _digests(files, path.parent)
        parts |= {(part if part not in parts else str(path)): value for part, value in named.items()}
    if not parts or (isinstance(task, RowsTask) and task.path is None):  # made by code, or rows of the hub
        parts["its examples"] = _examples_of(task)
    read = {f"task {name}": parts}
    for judge, url in getattr(task, "reward_models", ()):
        read |= _reward_model(judge, url)
    return read


def _below(folder: Path) -> list[Path]:
    """The files below a folder, without hidden ones (what a download notes of itself)."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [file for file in files if not any(p.startswith(".") for p in file.relative_to(folder).parts)]


def _examples_of(task: Task) -> str:
    """One digest of what a task asks and takes for right: of all its rows, or the first that its code makes."""
    if isinstance(task, RowsTask) and task in _examples:
        return _examples[task]
    made_by = (type(task), getattr(type(task), "draw", None), task.name)  # the name holds a task's settings
    if made_by in _generated:
        return _generated[made_by]
    made = hashlib.sha256()
    for split in task.splits:
        try:
            examples = task.examples(split, None if isinstance(task, RowsTask) else _OF_A_GENERATOR)
        except BadInputError:  # a split without a row
            continue
        for example in examples:
            problem = [example.key, task.messages(example), example.reference, dict(example.solutions), example.gold]
            made.update(json.dumps(problem, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    if isinstance(task, RowsTask):
        _examples[task] = made.hexdigest()
    elif type(task).__module__.startswith(f"{tasks.__name__}."):
        _generated[made_by] = made.hexdigest()
    return made.hexdigest()


def _reward_model(name: str, url: str | None) -> dict[str, dict[str, str]]:
    if url is not None:
        return {f"reward model {url}#{name}": {"weights": UNKNOWN}}
    folder = Path(name).expanduser()
    if folder.is_dir():
        return {f"reward model {name}": _folder(folder)}
    try:
        return {f"reward model {name}": {COMMIT: commit_of(name)}}
    except BadInputError:  # it is loaded when something is graded, which not every run does
        return {}
