"""The upload of a finished run's model to the hub, as `push_to_hub` asks for it.

TRL's Trainer uploads its own folder at each checkpoint. Here `model/` goes up once, behind the run's end: a guard may
have kept another step than the last. A run that is complete loses nothing by an upload that fails, and the same command
tries again. Left out on purpose: uploads of checkpoints, and of what lies beside the model in a run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # which the library re-exports

from distillknob.errors import BadInputError, RunFailedError, first_line
from distillknob.inputs.preflight import Preflight
from distillknob.runs.run import Run
from distillknob.runtime.hub import client_error, offline
from distillknob.runtime.processes import disconnect, notice, process_index


class Uploads(Protocol):
    """What a config says of the upload, as TrainingArguments calls it."""

    push_to_hub: bool
    hub_model_id: str | None
    hub_private_repo: bool | None
    hub_revision: str | None
    hub_token: str | None


StageT = TypeVar("StageT", bound=Callable[..., Run])


def uploads(stage: StageT) -> StageT:
    """Let a stage upload the model of its run, where its config says so. A run that is complete is uploaded as it is.
    Raises RunFailedError, beside what the stage raises, for an upload that failed."""

    @wraps(stage)
    def with_upload(config: Uploads, *args: Any, **kwargs: Any) -> Run:
        run = stage(config, *args, **kwargs)
        if config.push_to_hub:
            upload_model(run, config)
        return run

    return cast(StageT, with_upload)


def check_upload(config: Uploads, preflight: Preflight) -> None:
    """Raise BadInputError for an upload that could not be made, before any work: of an experiment, without a token that
    may write, or without the hub."""
    if not config.push_to_hub:
        for name in ("hub_model_id", "hub_private_repo", "hub_revision"):
            if (value := getattr(config, name)) is not None:
                raise BadInputError(f"{name}={value!r} without push_to_hub uploads nothing: add push_to_hub")
        return
    if preflight.chained:
        raise BadInputError(
            "push_to_hub: an experiment makes many models, which would all go to one place: leave it out, and upload "
            "the one you want (`hf upload NAME RUN/model`)"
        )
    if config.hub_model_id is not None:
        _check_id(config.hub_model_id)
    _check_account(config.hub_token)


def _check_id(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise BadInputError(f"hub_model_id={name!r} is no name on the hub ({error}): give USER/MODEL") from error


def _check_account(token: str | None) -> None:
    """Raise BadInputError without a token that may write, or without the hub."""
    if token is None and get_token() is None:
        raise BadInputError(
            "push_to_hub needs a token, and there is none: log in (`hf auth login`), or set HF_TOKEN in the environment"
        )
    away = f"push_to_hub: the hub ({constants.ENDPOINT}) can't be reached"
    if offline():
        raise BadInputError(f"{away}, or HF_HUB_OFFLINE is set: leave push_to_hub out, and upload the model later")
    try:
        account = HfApi().whoami(token)
    except HfHubHTTPError as error:
        raise BadInputError(
            f"push_to_hub: the hub refuses the token ({first_line(error)}): log in anew (`hf auth login`), or mend "
            "HF_TOKEN"
        ) from error
    except (client_error(), OSError) as error:
        raise BadInputError(
            f"{away} ({first_line(error)}): leave push_to_hub out, and upload the model later"
        ) from error
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise BadInputError("push_to_hub: the token may only read: take one that may write")


def upload_model(run: Run, config: Uploads) -> None:
    """Upload the `model/` of a complete run. Raises BadInputError as `check_upload`, and RunFailedError, with the
    command that tries again, for an upload that failed.

    Of several processes the first uploads. Their connection is closed before: the others would wait for it longer than
    a connection stands.
    """
    disconnect()
    if process_index() > 0:
        return
    _check_account(config.hub_token)
    folder, name = run.path / "model", config.hub_model_id or run.path.absolute().name
    try:
        url = _upload(folder, name, f"{run.stage} by distillknob", config)
    except (client_error(), OSError, RuntimeError, ValueError) as error:  # the hub refused, was away, or a file
        place = "" if config.hub_revision is None else f" --revision {config.hub_revision}"
        raise RunFailedError(
            f"{run.path} is complete, but its model could not be uploaded to {name} ({first_line(error)}). Nothing is "
            f"lost: the same command tries again and trains nothing, or `hf upload {name} {folder} .{place}`"
        ) from error
    notice(f"{folder} is at {url}")


def _upload(folder: Path, name: str, message: str, config: Uploads) -> str:
    """Make the repository, where it isn't there, and commit the folder; the repository's URL."""
    api = HfApi(token=config.hub_token)
    repository = api.create_repo(name, private=config.hub_private_repo, exist_ok=True)
    if config.hub_revision is not None:
        api.create_branch(repository.repo_id, branch=config.hub_revision, exist_ok=True)
    api.upload_folder(
        repo_id=repository.repo_id, folder_path=folder, commit_message=message, revision=config.hub_revision
    )
    return str(repository)
