"""A calibration target behind a server on the loopback interface, in both dialects, and a server that goes away."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.stage import calibrate
from distillknob.cli.main import main
from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.stage import diagnose
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError, RunFailedError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.stage import evaluate
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model, load_tokenizer
from distillknob.models.names import resolve
from distillknob.models.sampling import Sampling, generate
from distillknob.models.scoring import sequence_logprob, token_logprobs
from distillknob.models.served import model as served
from distillknob.models.served.model import ServedModel, connect
from distillknob.runs.run import load_run
from distillknob.tasks import get_task
from pairs import Pair


class Server:
    """Scores prompts with a model, as vLLM ("prompt_logprobs"), by echo, or not at all ("nothing")."""

    def __init__(self, model: LanguageModel, dialect: str):
        self.dialect, self.requests, self.fails = dialect, 0, 0
        self.asked: dict[str, Any] = {}
        self.lost_after: int | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests += 1
                if outer.lost_after is not None and outer.requests > outer.lost_after:
                    self.send_error(503, "gone")
                    return
                if outer.fails or body["model"] != "the-target":
                    outer.fails -= outer.fails > 0
                    self.send_error(503 if body["model"] == "the-target" else 404, "no")
                    return
                if outer.dialect == "echo" and "min_p" in body:  # vLLM's own
                    self.send_error(400, "unknown field min_p")
                    return
                outer.asked = body
                n = body.get("n", 1)
                choices = [
                    outer.sample(model, i, ids, body) if "echo" not in body else outer.choice(model, i, ids)
                    for i, ids in enumerate(ids for ids in body["prompt"] for _ in range(n))
                ]
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

    def sample(self, model: LanguageModel, index: int, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        """Greedy but for a first token that depends on the place, so that the answers to a prompt differ."""
        drawn = [300 + index % body.get("n", 1)]
        while len(drawn) < body["max_tokens"] and drawn[-1] != model.tokenizer.eos_token_id:
            with torch.no_grad():
                drawn.append(int(model.model(torch.tensor([ids + drawn])).logits[0, -1].argmax()))
            if index % 3 == 0 and len(drawn) == 4:
                drawn.append(model.tokenizer.eos_token_id)
        ended = drawn[-1] == model.tokenizer.eos_token_id
        text = model.tokenizer.decode(drawn, skip_special_tokens=True)
        found = {"index": index, "text": text, "finish_reason": "stop" if ended else "length"}
        if self.dialect == "prompt_logprobs" and body.get("return_token_ids"):
            found["token_ids"] = drawn[:-1] if ended and index % 2 else drawn  # with the end, or without it
        return found

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
            sequence_logprob(remote, prompts, texts, finished, reduction=reduction),
            sequence_logprob(other, prompts, texts, finished, reduction=reduction),
            atol=1e-3,
            rtol=1e-4,
        )
    assert [len(row) for row in token_logprobs(remote, prompts[:1], [[]])] == [0]
    assert server.requests == 1 + 2 * 2  # asked once at first; four answers that aren't empty, two a request


def test_a_teacher_is_calibrated_against_a_served_target(
    server: Server, tiny_pair: Pair, tiny_other: str, tmp_path: Path
) -> None:
    def config(**values: Any) -> CalibrationConfig:
        return CalibrationConfig(
            **{
                "teacher": tiny_pair.teacher,
                "target": tiny_other,
                "eta": 0.5,
                "reward": "sequence",
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


def test_a_training_whose_server_is_lost_goes_on_when_it_is_back(
    server: Server, tiny_pair: Pair, tiny_other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config() -> CalibrationConfig:
        return CalibrationConfig(
            teacher=tiny_pair.teacher,
            target=tiny_other,
            target_url=server.url,
            target_name="the-target",
            eta=0.5,
            reward="sequence",
            gate=False,
            max_steps=6,
            guard_steps=2,
            utility_tolerance=0.9,
            num_generations=2,
            per_device_train_batch_size=4,
            gradient_checkpointing=False,
            problems=8,
            guard_problems=5,
            guard_samples=1,
            max_completion_length=8,
        )

    def reward(completions: list[Any], **kwargs: Any) -> list[float]:
        return [float(len(text[0]["content"]) % 2) for text in completions]

    monkeypatch.setattr(served, "TRIES", 2)
    whole = calibrate(config(), tmp_path / "whole", reward_funcs=reward)
    server.requests, server.lost_after = 0, 5  # asked once at the start, then at each step
    with pytest.raises(RunFailedError, match=r"can't be reached.*--resume"):
        calibrate(config(), tmp_path / "run", reward_funcs=reward)
    assert [row["step"] for row in load_run(tmp_path / "run").metrics()] == [1, 2, 3, 4]
    server.lost_after = None
    resumed = calibrate(config(), tmp_path / "run", resume=True, reward_funcs=reward)
    one, other = (load_file(run.path / "model" / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


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


def test_a_server_s_samples_come_in_their_order(server: Server, other: LanguageModel, tiny_other: str) -> None:
    prompts = [get_task("math").messages(example) for example in get_task("math").examples("train", 5)]
    remote = connect(server.url, "the-target", tiny_other)
    remote = ServedModel(remote.url, remote.name, remote.tokenizer, batch_size=6)
    found = generate(remote, prompts, 3, Sampling(max_new_tokens=6, top_k=7, temperature=0.5, seed=4))
    assert server.asked["top_k"] == 7 and server.asked["temperature"] == 0.5 and server.asked["max_tokens"] == 6
    assert len(found.completions) == 5 and {len(row) for row in found.completions} == {3}
    end = other.tokenizer.eos_token_id
    for row in found.completions:
        assert len({sample.text for sample in row}) == 3  # each sample with its own prompt's others
        for sample in row:
            assert sample.finished == (sample.token_ids[-1] == end) and sample.token_ids.count(end) <= 1
            assert other.tokenizer.decode(sample.token_ids, skip_special_tokens=True) == sample.text
    assert {sample.finished for row in found.completions for sample in row} == {True, False}
    begun = generate(remote, prompts[:1], 1, Sampling(max_new_tokens=3), begun=[[310, 311]]).completions[0][0]
    assert begun.token_ids[:2] == [310, 311] and len(begun.token_ids) in (4, 5)


def test_every_prompt_has_noise_of_its_own(server: Server, tiny_other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server gives each prompt of a request the request's seed."""
    asked = []
    sample = ServedModel.sample

    def watched(self: ServedModel, ids: Any, n: int, **sampling: Any) -> Any:
        asked.append((len(ids), sampling["seed"]))
        return sample(self, ids, n, **sampling)

    monkeypatch.setattr(ServedModel, "sample", watched)
    remote = connect(server.url, "the-target", tiny_other)
    prompts = [get_task("math").messages(example) for example in get_task("math").examples("train", 7)]
    for seed in (0, 0, 1):
        generate(remote, prompts, 2, Sampling(max_new_tokens=2, seed=seed))
    assert {many for many, _ in asked} == {1}
    seeds = [{seed for _, seed in asked[start : start + 7]} for start in (0, 7, 14)]
    assert [len(found) for found in seeds] == [7, 7, 7]
    assert seeds[0] == seeds[1] and not seeds[0] & seeds[2]


def test_stages_take_a_served_model_by_name(
    server: Server, other: LanguageModel, tiny_pair: Pair, tiny_other: str, tmp_path: Path
) -> None:
    name = f"{server.url}#the-target#{tiny_other}"
    config = EvaluateConfig(models=[name, tiny_other], problems=3, samples=2, k=2, max_new_tokens=5)
    result = evaluate(config, tmp_path / "evaluate").result
    assert [model["model"] for model in result["models"]] == [name, tiny_other]
    assert load_run(tmp_path / "evaluate").samples()[0]["mean_logprob"] < 0
    common: dict[str, Any] = {"teacher": name, "student": tiny_pair.student, "problems": 6, "max_steps": 1}
    common |= {"per_device_train_batch_size": 2, "gradient_checkpointing": False, "max_completion_length": 6}
    run = distill(DistillConfig(method="sft", **common), tmp_path / "sft")
    assert run.result["traces"] == 6
    with pytest.raises(BadInputError, match="needs the weights themselves"):
        distill(DistillConfig(method="gkd", **common), tmp_path / "gkd")
    mute = Server(other, "nothing")
    try:
        common |= {"teacher": f"{mute.url}#the-target#{tiny_other}", "method": "sft_best_of_n_sure"}
        common["target"] = tiny_pair.teacher
        with pytest.raises(BadInputError, match=r"selection=sure_tokens: .* gives no log-probabilities of its samples"):
            distill(DistillConfig(**common), tmp_path / "selected")
        assert not (tmp_path / "selected").exists() and mute.asked["max_tokens"] == 1  # it was asked what it can do
    finally:
        mute.stop()
    with pytest.raises(BadInputError, match="needs the weights themselves"):
        diagnose(DiagnoseConfig(teacher=name, student=tiny_pair.student), tmp_path / "diagnose")
    with pytest.raises(BadInputError, match="names a server and no model"):
        resolve(f"{server.url}##{tiny_other}")
    with pytest.raises(BadInputError, match="names a server and no model"):
        evaluate(EvaluateConfig(models=[server.url]), tmp_path / "nothing")


def test_a_key_is_sent(server: Server, tiny_other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    real = urllib.request.urlopen

    def recorded(request: urllib.request.Request, **options: Any) -> Any:
        sent.append(request.headers)
        return real(request, **options)

    monkeypatch.setattr("distillknob.runtime.http.urllib.request.urlopen", recorded)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    connect(server.url, "the-target", tiny_other)
    assert sent[0]["Authorization"] == "Bearer secret"


def test_a_dry_run_counts_nothing_of_what_a_server_holds(
    server: Server, tiny_other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{server.url}#the-target#{tiny_other}"
    assert main(["evaluate", "--models", server.url, "--dry-run", "--output", str(tmp_path / "run")]) == 2
    assert "names a server and no model" in capsys.readouterr().err
    assert main(["evaluate", "--models", name, "--dry-run", "--output", str(tmp_path / "run")]) == 0
    assert "all the time: nothing" in capsys.readouterr().out
    for words in (
        ["evaluate", "--models", name, tiny_other],
        ["distill", "--method", "sft", "--teacher", name, "--student", tiny_other],
        ["calibrate", "--teacher", tiny_other, "--target", name],
    ):
        assert main([*words, "--dry-run", "--output", str(tmp_path / "run")]) == 0
        told = capsys.readouterr().out
        assert "nothing was started" in told and told.count("parameters, counted from its folder") == 1
