"""A calibration target behind a server on the loopback interface, in both dialects, and a server that goes away."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob import served
from distillknob.calibrate import CalibrationConfig, calibrate
from distillknob.errors import BadInputError, RunFailedError
from distillknob.models import LanguageModel, load_model, load_tokenizer
from distillknob.scoring import sequence_logprob, token_logprobs
from distillknob.served import ServedModel, connect
from distillknob.tasks import get_task


class Server:
    """Scores prompts with a model, as vLLM ("prompt_logprobs"), by echo, or not at all ("nothing")."""

    def __init__(self, model: LanguageModel, dialect: str):
        self.dialect, self.requests, self.fails = dialect, 0, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests += 1
                if outer.fails or body["model"] != "the-target":
                    outer.fails -= outer.fails > 0
                    self.send_error(503 if body["model"] == "the-target" else 404, "no")
                    return
                choices = [outer.choice(model, i, ids) for i, ids in enumerate(body["prompt"])]
                data = json.dumps({"choices": choices[::-1]}).encode()  # in any order: they have an index
                self.send_response(200)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def choice(self, model: LanguageModel, index: int, ids: list[int]) -> dict[str, Any]:
        with torch.no_grad():
            logprobs = model.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        values = [float(logprobs[t, token]) for t, token in enumerate(ids[1:])]
        if self.dialect == "prompt_logprobs":
            told = [None, *({str(t): {"logprob": v, "rank": 1}} for t, v in zip(ids[1:], values, strict=True))]
            return {"index": index, "text": "x", "prompt_logprobs": told}
        if self.dialect == "echo":
            return {"index": index, "text": "x", "logprobs": {"token_logprobs": [None, *values, -0.5]}}
        return {"index": index, "text": "x", "logprobs": None}

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(params=["prompt_logprobs", "echo"])
def server(request: pytest.FixtureRequest, other: LanguageModel) -> Iterator[Server]:
    found = Server(other, request.param)
    yield found
    found.stop()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "PAUSE", 0.01)


def test_a_server_scores_as_the_model_does(server: Server, other: LanguageModel, tiny_other: str) -> None:
    task = get_task("math")
    examples = task.examples("train", 5)
    prompts, texts = [task.messages(e) for e in examples], [e.gold_solution for e in examples]
    texts[2] = ""
    finished = [True, False, False, True, True]
    remote = connect(server.url, "the-target", tiny_other)
    remote = ServedModel(remote.url, remote.name, remote.tokenizer, batch_size=2)
    for reduction in ("sum", "mean"):
        torch.testing.assert_close(
            sequence_logprob(remote, prompts, texts, finished, reduction=reduction),  # type: ignore[arg-type]
            sequence_logprob(other, prompts, texts, finished, reduction=reduction),  # type: ignore[arg-type]
            atol=1e-3,
            rtol=1e-4,
        )
    assert [len(row) for row in token_logprobs(remote, prompts[:1], [[]])] == [0]
    assert server.requests == 1 + 2 * 2  # asked once at first; four answers that aren't empty, two a request


def test_a_teacher_is_calibrated_against_a_served_target(
    server: Server, tiny_pair: Any, tiny_other: str, tmp_path: Path
) -> None:
    def config(**values: Any) -> CalibrationConfig:
        return CalibrationConfig(
            **{
                "teacher": tiny_pair.teacher,
                "target": tiny_other,
                "eta": 0.5,
                "gate": False,
                "guard": False,
                "max_steps": 2,
                "num_generations": 2,
                "per_device_train_batch_size": 4,
                "gradient_checkpointing": False,
                "problems": 8,
                "guard_problems": 5,
                "guard_samples": 1,
                "max_completion_length": 8,
                **values,
            }
        )

    def reward(completions: list[Any], **kwargs: Any) -> list[float]:
        return [float(len(text[0]["content"]) % 2) for text in completions]

    far = calibrate(config(target_url=server.url, target_name="the-target"), tmp_path / "far", reward_funcs=reward)
    near = calibrate(config(), tmp_path / "near", reward_funcs=reward)
    ratios = [[row["log_ratio"] for row in run.metrics()] for run in (far, near)]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-4)


def test_a_hiccup_is_waited_for_and_a_lost_server_told(server: Server, tiny_other: str) -> None:
    remote = connect(server.url, "the-target", tiny_other)
    server.fails = 2
    assert len(remote.logprobs([[5, 6, 7]])[0]) == 2
    server.stop()
    with pytest.raises(RunFailedError, match=r"can't be reached.*--resume"):
        remote.logprobs([[5, 6]])


def test_a_server_that_is_not_there_or_does_not_score_is_told_at_once(other: LanguageModel, tiny_other: str) -> None:
    with pytest.raises(BadInputError, match="give the API's root"):
        connect("localhost:8000", "the-target", tiny_other)
    with pytest.raises(BadInputError, match="can't be reached"):
        connect("http://127.0.0.1:9/v1", "the-target", tiny_other)
    mute = Server(other, "nothing")
    with pytest.raises(BadInputError, match="no log-probabilities of the prompt"):
        connect(mute.url, "the-target", tiny_other)
    with pytest.raises(BadInputError, match=r"refused a request \(404\)"):
        connect(mute.url, "another", tiny_other)
    mute.stop()
    assert load_tokenizer(tiny_other).eos_token == load_model(tiny_other).tokenizer.eos_token
