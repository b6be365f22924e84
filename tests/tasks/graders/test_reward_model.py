"""Tasks graded by a reward model: a tiny one with fresh weights, here and behind a server on the loopback interface."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distillknob.errors import BadInputError, RunFailedError
from distillknob.runtime import http as post
from distillknob.tasks import get_task, grade_all
from distillknob.tasks.graders.reward_model import (
    Exchange,
    LocalRewardModel,
    ServedRewardModel,
    connect,
    load,
    reward_model,
)
from distillknob.tasks.reward_task import sigmoid
from pairs import Pair

DATA = Path(__file__).parents[2] / "fixtures" / "data"
EXCHANGES = [
    Exchange("Where is the lamp?", "The lamp is near the river."),
    Exchange("Where is the lamp?", "here"),
    Exchange("Name two animals.", "bee, cat, bee, cat, bee, cat, bee, cat, bee, cat."),
    Exchange("Name two animals.", ""),
]


@pytest.fixture(scope="module")
def judge(tiny_reward: str) -> LocalRewardModel:
    return load(tiny_reward)


def alone(judge: LocalRewardModel, exchange: Exchange) -> float:
    """The reward by transformers alone, without a batch."""
    ids = judge.tokenizer.apply_chat_template(exchange.messages, tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        return float(judge.model(**ids).logits[0, 0])


# Here


def test_a_batch_gives_what_each_row_gives_alone(judge: LocalRewardModel) -> None:
    rewards = judge.rewards(EXCHANGES)
    assert rewards == pytest.approx([alone(judge, exchange) for exchange in EXCHANGES], abs=1e-4)
    assert len({round(reward, 3) for reward in rewards}) == len(EXCHANGES)
    assert judge.rewards([]) == []


def test_rows_that_end_in_the_pad_token_are_not_padded(tiny_reward: str, tmp_path: Path) -> None:
    """A checkpoint that pads with its eos: the head would read the wrong place of a padded row."""
    folder = tmp_path / "reward"
    shutil.copytree(tiny_reward, folder)
    own = load(tiny_reward).tokenizer
    last = own.apply_chat_template(EXCHANGES[0].messages, tokenize=True, return_dict=True)["input_ids"][-1]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": last}))
    judge = load(str(folder))
    assert judge.rewards(EXCHANGES) == pytest.approx([alone(judge, exchange) for exchange in EXCHANGES], abs=1e-4)


@pytest.mark.parametrize("answer", ["x" * 1_000_000, "\ud800", "\x00", "bee " * 300_000, "答案 Ответ \u202e"])
def test_whatever_a_completion_holds_it_is_judged(judge: LocalRewardModel, answer: str) -> None:
    (reward,) = judge.rewards([Exchange("Name two animals.", answer)])
    assert math.isfinite(reward)


def test_threads_share_a_reward_model(judge: LocalRewardModel) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: judge.rewards([EXCHANGES[i % 4]])[0], range(16)))
    assert found == pytest.approx(judge.rewards(EXCHANGES) * 4, abs=1e-4)


def test_a_broken_model_is_told(tiny_reward: str) -> None:
    judge = load(tiny_reward)
    with torch.no_grad():
        judge.model.score.weight.fill_(math.nan)
    with pytest.raises(RunFailedError, match="gives nan: its weights are broken"):
        judge.rewards(EXCHANGES)


def test_a_checkpoint_that_is_no_reward_model_is_told(tiny_reward: str, tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="Qwen3ForCausalLM, so its classification head would be random"):
        load(tiny_pair.student)
    with pytest.raises(BadInputError, match=r"can't load the reward model '.*none'.*reward_url"):
        load(str(tmp_path / "none"))
    folder = tmp_path / "two"
    shutil.copytree(tiny_reward, folder)
    config = json.loads((folder / "config.json").read_text())
    two = {**config, "id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    (folder / "config.json").write_text(json.dumps(two))
    with pytest.raises(BadInputError, match="has 2 labels: a reward model gives one number"):
        load(str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(BadInputError, match="has no chat template"):
        load(str(folder))


def test_a_head_that_the_files_lack_is_told_and_not_made_up(tiny_reward: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_reward, tmp_path / "headless"))
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInputError, match=r"lack 1 weights of a Qwen3ForSequenceClassification \(score.weight\)"):
        load(str(folder))


def test_a_name_that_can_be_no_reward_model_is_told_before_anything_is_graded(tmp_path: Path) -> None:
    for query, what in (
        (f"reward={tmp_path}", "there is no checkpoint folder"),
        ("reward=./none", "there is no checkpoint folder"),
        ("reward=judge&reward_url=localhost:8000", "give the server's root"),
    ):
        with pytest.raises(BadInputError, match=what):
            get_task(f"dolly@{DATA / 'dolly'}?{query}")


def test_a_gate_that_no_answer_passes_is_told(tiny_reward: str, tiny_pair: Pair, tmp_path: Path) -> None:
    from distillknob.calibration.config import CalibrationConfig
    from distillknob.calibration.stage import calibrate

    name = f"dolly@{DATA / 'dolly'}?reward={tiny_reward}"
    config = CalibrationConfig(teacher=tiny_pair.teacher, target=tiny_pair.student, tasks=[name])
    with pytest.raises(BadInputError, match=r"right_at=1: no answer of task 'dolly@.*set right_at to 0.5"):
        calibrate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# As a grader


def test_the_score_is_the_probability_of_being_preferred_to_the_response(
    judge: LocalRewardModel, tiny_reward: str
) -> None:
    task = get_task(f"dolly@{DATA / 'dolly'}?reward={tiny_reward}")
    examples = task.examples("test", 4)
    answers = [e.gold_solution if i % 2 else "The lamp is here." for i, e in enumerate(examples)]
    references = [json.loads(json.dumps(e.reference)) for e in examples]
    expected = [
        sigmoid(alone(judge, Exchange(e.prompt, text)) - alone(judge, Exchange(e.prompt, e.gold_solution)))
        for e, text in zip(examples, answers, strict=True)
    ]
    scores = grade_all(task, answers, references)
    assert scores == pytest.approx(expected, abs=1e-4)
    assert scores[1] == scores[3] == 0.5 and task.is_right(scores[1])  # as good as itself
    assert [task.grade(*pair) for pair in zip(answers, references, strict=True)] == pytest.approx(scores, abs=1e-4)
    assert not task.verifiable and not task.is_right(0.49)


def test_without_a_response_the_score_is_the_sigmoid_of_the_reward(judge: LocalRewardModel, tiny_reward: str) -> None:
    task = get_task(f"vicuna@{DATA / 'vicuna'}?reward={tiny_reward}")
    example = task.examples("test", 1)[0]
    expected = sigmoid(alone(judge, Exchange(example.prompt, "Gladly.")))
    assert task.grade("Gladly.", example.reference) == pytest.approx(expected, abs=1e-4)
    assert sigmoid(-1e4) == 0.0 and sigmoid(1e4) == 1.0


def test_responses_are_judged_once_and_a_batch_in_one_pass(tiny_reward: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = get_task(f"dolly@{DATA / 'dolly'}?reward={tiny_reward}&")
    asked: list[int] = []
    original = LocalRewardModel.rewards

    def rewards(self: LocalRewardModel, exchanges: Any) -> list[float]:
        asked.append(len(exchanges))
        return original(self, exchanges)

    monkeypatch.setattr(LocalRewardModel, "rewards", rewards)
    references = [e.reference for e in task.examples("train", 3)]
    task._responses.clear()  # type: ignore[attr-defined]
    grade_all(task, ["a", "b", "c", "d"], [*references, references[0]])
    grade_all(task, ["e", "f", "g", "h"], [*references, references[0]])
    assert asked == [4 + 3, 4]
    assert reward_model(tiny_reward) is reward_model(tiny_reward)


def test_the_stages_grade_with_it(tiny_reward: str, student: Any) -> None:
    from distillknob.evaluation.task_result import evaluate_task
    from distillknob.training.grading import task_reward

    task = get_task(f"dolly@{DATA / 'dolly'}?reward={tiny_reward}")
    found = evaluate_task(student, task, problems=3, samples=8, max_new_tokens=20, modes=False)
    assert found.scores_PN.shape == (3, 8) and found.pass_at_k is None
    assert 0 < found.finished_rate < 1
    for row in found.rows:
        counts = row["finished"] and row["text"].strip()
        wanted = task.grade(row["text"], row["reference"]) if counts else 0.0
        assert row["score"] == pytest.approx(wanted, abs=1e-4)
    qa = get_task("qa").examples("train", 1)[0]
    texts = [qa.gold_solution, "The lamp is here."]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    example = task.examples("train", 1)[0]
    names, references = ["qa", task.name], [json.dumps(qa.reference), json.dumps(example.reference)]
    assert task_reward(completions, names, references, [True, True], texts) == pytest.approx(
        [1.0, task.grade("The lamp is here.", example.reference)], abs=1e-4
    )


# Behind a server


class Server:
    """Judges as vLLM does: `kind` is the endpoint that it knows, or what is wrong with it."""

    def __init__(self, judge: LocalRewardModel, kind: str):
        self.kind, self.requests, self.fails = kind, 0, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests += 1
                status, answer = outer.answer(judge, self.path, body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, judge: LocalRewardModel, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if self.fails:
            self.fails -= 1
            return 503, {"error": "busy"}
        if body["model"] != "the-judge":
            return 404, {"error": f"no model {body['model']}"}
        if path != ("/classify" if self.kind == "/classify" else "/pooling"):
            return 404, {"error": "no such path"}
        prompt, answer = (message["content"] for message in body["messages"])
        reward = alone(judge, Exchange(prompt, answer))
        if body["use_activation"] or self.kind == "probabilities":
            reward = sigmoid(reward)
        if self.kind == "two labels":
            return 200, {"data": [{"index": 0, "data": [reward, -reward]}]}
        if self.kind == "/classify":
            return 200, {"data": [{"index": 0, "label": "LABEL_0", "probs": [reward], "num_classes": 1}]}
        return 200, {"data": [{"index": 0, "object": "pooling", "data": [reward]}]}

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "PAUSE", 0.01)


@pytest.fixture
def serve(judge: LocalRewardModel) -> Iterator[Any]:
    servers: list[Server] = []

    def start(kind: str) -> Server:
        servers.append(Server(judge, kind))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.mark.parametrize("endpoint", ["/pooling", "/classify"])
def test_a_served_reward_model_judges_as_the_local_one(serve: Any, judge: LocalRewardModel, endpoint: str) -> None:
    served = connect(serve(endpoint).url, "the-judge")
    assert served.endpoint == endpoint
    assert served.rewards(EXCHANGES * 8) == pytest.approx(judge.rewards(EXCHANGES) * 8, abs=1e-4)


def test_a_task_is_graded_by_a_server(serve: Any, tiny_reward: str) -> None:
    server = serve("/pooling")
    far = get_task(f"dolly@{DATA / 'dolly'}?reward_url={server.url}&reward=the-judge")
    near = get_task(f"dolly@{DATA / 'dolly'}?reward={tiny_reward}")
    assert server.requests == 0  # nobody has been asked to grade
    examples = far.examples("test", 3)
    references, texts = [e.reference for e in examples], ["The lamp is here.", "", "bee"]
    assert grade_all(far, texts, references) == pytest.approx(grade_all(near, texts, references), abs=1e-4)
    assert server.requests == 2 + 6


def test_a_hiccup_is_waited_for_and_a_lost_server_told(serve: Any) -> None:
    server = serve("/pooling")
    served = connect(server.url, "the-judge")
    server.fails = 2
    assert len(served.rewards(EXCHANGES[:1])) == 1
    lost = ServedRewardModel("http://127.0.0.1:9", "the-judge", "/pooling")
    with pytest.raises(RunFailedError, match=r"can't be reached.*8 tries.*--resume"):
        lost.rewards(EXCHANGES[:1])


def test_a_server_that_gives_no_rewards_is_told_at_once(serve: Any) -> None:
    for url, name, what in (
        ("localhost:8000", "the-judge", "give the server's root"),
        ("http://127.0.0.1:9", "the-judge", "can't be reached"),
        (serve("/pooling").url, "another", r"refused a request \(404\).*no model another"),
        (serve("two labels").url, "the-judge", "no single number"),
        (serve("probabilities").url, "the-judge", "may be a probability and not a reward"),
    ):
        with pytest.raises(BadInputError, match=f"reward_url=.*{what}"):
            connect(url, name)
