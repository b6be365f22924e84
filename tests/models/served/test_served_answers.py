"""What servers answer and shouldn't, how long a busy one is waited for, and models that only chat."""

from __future__ import annotations

import email.utils
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError, RunFailedError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.stage import evaluate
from distillknob.models.load import load_tokenizer
from distillknob.models.sampling import Sampling, generate
from distillknob.models.served.answers import choices_of, ended, message_of, prompt_logprobs, text_of, token_ids_of
from distillknob.models.served.chat import ServedChat
from distillknob.models.served.model import ServedModel, connect, load_or_connect
from distillknob.runtime import http as post
from distillknob.runtime.http import RefusedError, post_json, retry_after
from pairs import Pair

IDS = [5, 6, 7, 8]
ROWS: list[Any] = [None, *({str(token): {"logprob": -0.5}} for token in IDS[1:])]


def scored(**choice: Any) -> list[float]:
    return prompt_logprobs(choice, IDS, "http://a/v1", "m")


def echoed(*values: Any) -> list[float]:
    return scored(logprobs={"token_logprobs": list(values)})


def test_log_probabilities_of_the_prompt_are_read() -> None:
    assert scored(prompt_logprobs=ROWS) == [-0.5] * 3
    assert scored(prompt_logprobs=[*ROWS[:3], {"8": {"logprob": "-inf"}}]) == [-0.5, -0.5, -math.inf]
    assert echoed(None, -1, -2, -3) == [-1, -2, -3]  # the prompt's alone, or with the new token's
    assert echoed(None, -1, -2, -3, -9) == [-1, -2, -3]


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:-1],
        [None],
        [],
        "none",
        [None, {"0": {"logprob": -1.0}}, *ROWS[1:]],  # a BOS before the prompt
        [{"5": {"logprob": -1.0}}, *ROWS[1:]],  # of which the first token has one
        [*ROWS[:2], None, ROWS[3]],
        [None, *({"99999": {"logprob": -0.5}} for _ in IDS[1:])],
        [*ROWS[:3], {"8": {"logprob": None}}],
        [*ROWS[:3], {"8": {"logprob": "x"}}],
        [*ROWS[:3], {"8": {"logprob": 2.5}}],
        [*ROWS[:3], {"8": {"logprob": math.nan}}],
        [*ROWS[:3], {"8": {"logprob": True}}],
        [*ROWS[:3], {"8": -0.5}],
        [*ROWS[:3], ["8"]],
    ],
)
def test_prompt_logprobs_that_are_not_the_prompt_s_are_refused(rows: Any) -> None:
    with pytest.raises(RunFailedError, match="http://a/v1 gives"):
        scored(prompt_logprobs=rows)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([None, -9, -1, -2, -3, -0.1], "6 log-probabilities for a prompt of 4"),  # a BOS and the new token
        ([-9, -1, -2, -3, -0.1], "first token"),  # scored behind a BOS that isn't shown
        ([0.0] * 5, "first token"),  # llama.cpp
        ([None, 0.0, 0.0, 0.0], "log-probability 0"),
        ([None, -1, None, -2], "log-probability None"),
        ([None, -1, "x", -2], "log-probability 'x'"),
        ([-0.1], "no log-probabilities of the prompt"),  # of the new token alone
        ([], "no log-probabilities of the prompt"),
        ({"0": -1}, "no log-probabilities of the prompt"),
        ("none at all", "no log-probabilities of the prompt"),
    ],
)
def test_an_echo_that_is_not_the_prompt_s_is_refused(values: Any, reason: str) -> None:
    with pytest.raises(RunFailedError, match=reason):
        scored(logprobs={"token_logprobs": values})


@pytest.mark.parametrize("logprobs", [None, [], "x", {"content": []}, 5])
def test_an_answer_without_log_probabilities_is_refused(logprobs: Any) -> None:
    with pytest.raises(RunFailedError, match="no log-probabilities of the prompt"):
        scored(logprobs=logprobs)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [1],
        "text",
        5,
        {},
        {"choices": None},
        {"choices": {}},
        {"choices": [1, 2]},
        {"choices": [{}]},
        {"choices": [{}, {}, {}]},
        {"choices": [{"index": 0}, {"index": 0}]},
        {"choices": [{"index": 0}, {}]},
        {"choices": [{"index": "0"}, {"index": "1"}]},
        {"choices": [{"index": 1}, {"index": 2}]},
        {"error": {"message": "model overloaded", "code": 503}},
    ],
)
def test_choices_that_are_not_the_ones_asked_for_are_refused(answer: Any) -> None:
    with pytest.raises(RunFailedError, match="http://a/v1"):
        choices_of(answer, 2, "http://a/v1")


def test_choices_come_in_the_order_of_their_index() -> None:
    assert [c["t"] for c in choices_of({"choices": [{"index": 1, "t": 1}, {"index": 0, "t": 0}]}, 2, "u")] == [0, 1]
    assert [c["t"] for c in choices_of({"choices": [{"t": 1}, {"t": 0}]}, 2, "u")] == [1, 0]


@pytest.mark.parametrize(
    "read",
    [
        lambda: text_of({"text": None}, "u"),
        lambda: text_of({}, "u"),
        lambda: token_ids_of({"token_ids": [5, "6"]}, 10, "u"),
        lambda: token_ids_of({"token_ids": [5, 10]}, 10, "u"),
        lambda: token_ids_of({"token_ids": [True]}, 10, "u"),
        lambda: token_ids_of({"token_ids": "5"}, 10, "u"),
        lambda: message_of({"message": None}, "u"),
        lambda: message_of({"message": {"content": None}, "finish_reason": "tool_calls"}, "u"),
        lambda: message_of({"text": "a completion"}, "u"),
        lambda: ended({"finish_reason": "abort"}, "u"),
    ],
)
def test_samples_that_hold_no_answer_are_refused(read: Callable[[], Any]) -> None:
    with pytest.raises(RunFailedError, match=r"^u "):
        read()


def test_what_a_sample_says_is_read() -> None:
    assert ended({"finish_reason": "stop"}, "u") and ended({"finish_reason": "eos_token"}, "u")
    assert not any(ended({"finish_reason": reason}, "u") for reason in ("length", "content_filter", None))
    assert message_of({"message": {"content": [{"type": "text", "text": "4"}, {"text": "2"}]}}, "u") == "42"
    assert message_of({"message": {"content": None}, "finish_reason": "length"}, "u") == ""
    assert token_ids_of({"token_ids": [5, 9]}, 10, "u") == [5, 9] and token_ids_of({}, 10, "u") is None


class Stub:
    """A server that answers by `reply(path, body)` -> (status, headers, answer), and remembers what it was sent."""

    def __init__(self, reply: Callable[[str, Any], tuple[int, dict[str, str], Any]]):
        self.sent: list[tuple[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.sent.append((self.path, body))
                status, headers, answer = reply(self.path, body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def stub() -> Iterator[Callable[..., Stub]]:
    stubs: list[Stub] = []

    def make(reply: Callable[[str, Any], tuple[int, dict[str, str], Any]]) -> Stub:
        stubs.append(Stub(reply))
        return stubs[-1]

    yield make
    for one in stubs:
        one.http.shutdown()
        one.http.server_close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which are noted and not waited for."""
    pauses: list[float] = []
    monkeypatch.setattr("distillknob.runtime.http.time.sleep", pauses.append)
    return pauses


def headers(value: str | None) -> Message:
    message = Message()
    if value is not None:
        message["Retry-After"] = value
    return message


def test_retry_after_is_a_number_of_seconds_or_a_date() -> None:
    assert retry_after(headers("3")) == 3 and retry_after(headers("0.5")) == 0.5
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    assert 15 < (retry_after(headers(date)) or 0) <= 20
    assert retry_after(headers("Wed, 21 Oct 2015 07:28:00 GMT")) == 0
    assert [retry_after(headers(value)) for value in (None, "soon", "inf", "")] == [None] * 4


def test_a_busy_server_is_waited_for_as_long_as_it_asks(stub: Callable[..., Stub], waits: list[float]) -> None:
    answers = iter([(429, {"Retry-After": "33"}, {}), (503, {"Retry-After": "1"}, {}), (429, {}, {}), (200, {}, 5)])
    server = stub(lambda path, body: next(answers))
    assert post_json(server.url, {}) == 5
    assert waits == [33, 1, 8]  # without the header the pause doubles with each try


def test_one_that_asks_for_too_much_patience_is_given_up_at_once(stub: Callable[..., Stub], waits: list[float]) -> None:
    server = stub(lambda path, body: (429, {"Retry-After": "86400"}, {}))
    with pytest.raises(RunFailedError, match=r"asks to wait 86400 seconds.*--resume"):
        post_json(server.url, {})
    assert waits == [] and len(server.sent) == 1


def test_a_refusal_and_a_page_instead_of_json_are_told(stub: Callable[..., Stub], waits: list[float]) -> None:
    with pytest.raises(RefusedError, match=r"\(401\).*OPENAI_API_KEY"):
        post_json(stub(lambda path, body: (401, {}, "no key")).url, {})
    assert waits == []
    with pytest.raises(RunFailedError, match=r"answers, but with no JSON: '<html>proxy"):
        post_json(stub(lambda path, body: (200, {}, b"<html>proxy</html>")).url, {}, tries=2)
    assert len(waits) == 1


def test_a_server_that_puts_a_token_before_the_prompt_is_known_before_any_work(
    stub: Callable[..., Stub], tiny_other: str
) -> None:
    """With a BOS and without the new token there are as many log-probabilities as there should be."""

    def reply(path: str, body: Any) -> tuple[int, dict[str, str], Any]:
        rows = [{"token_logprobs": [None, *(-0.01 * token for token in row)]} for row in body["prompt"]]
        return 200, {}, {"choices": [{"index": i, "text": "", "logprobs": row} for i, row in enumerate(rows)]}

    with pytest.raises(BadInputError, match="one token off"):
        connect(stub(reply).url, "m", tiny_other)


def completion(**fields: Any) -> dict[str, Any]:
    return {"index": 0, "text": "x", "finish_reason": "stop", **fields}


def test_an_answer_has_one_end_whichever_it_is(stub: Callable[..., Stub], tiny_other: str) -> None:
    tokenizer = load_tokenizer(tiny_other)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|third|>"]})
    third, eos = tokenizer.convert_tokens_to_ids("<|third|>"), tokenizer.eos_token_id
    choice: dict[str, Any] = {}
    server = stub(lambda path, body: (200, {}, {"choices": [completion(**choice)]}))
    model = ServedModel(server.url, "m", tokenizer)
    for ids, finish, expected in (
        ([310, third], "stop", [310, third]),  # a third end, of the generation config
        ([310, eos], "stop", [310, eos]),
        ([310], "stop", [310, eos]),  # vLLM may leave it out
        ([310, 311], "length", [310, 311]),
    ):
        choice.update(token_ids=ids, finish_reason=finish)
        assert model.sample([[5]], 1)[0][0][1] == expected
    spelled = tokenizer.eos_token
    choice.update(token_ids=None, text=f"a{spelled}b", finish_reason="length")
    assert eos not in model.sample([[5]], 1)[0][0][1]  # letters that spell the end are no end


PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]


def chat_reply(refuse: Callable[[Any], str | None] = lambda body: None, *, at_most: int = 99) -> Any:
    """A chat interface alone; `refuse` gives the text of a refusal."""

    def reply(path: str, body: Any) -> tuple[int, dict[str, str], Any]:
        if not path.endswith("/chat/completions"):
            return 404, {}, {"error": "This is a chat model and not supported in the v1/completions endpoint."}
        message = refuse(body)
        if message is not None:
            return 400, {}, {"error": {"message": message}}
        words = body["messages"][-1]["content"][:20]
        choices = [
            {"index": j, "message": {"role": "assistant", "content": f"{words} {j}"}, "finish_reason": "stop"}
            for j in range(min(at_most, body.get("n", 1)))
        ]
        return 200, {}, {"choices": choices}

    return reply


def test_a_chat_interface_is_sampled(stub: Callable[..., Stub]) -> None:
    server = stub(chat_reply())
    model = load_or_connect(f"{server.url}/chat/completions#hosted", scores=False)
    assert isinstance(model, ServedChat)
    rows = generate(model, [PROMPT, PROMPT], 2, Sampling(max_new_tokens=5, temperature=0.5)).completions
    assert [[sample.text for sample in row] for row in rows] == [["1 + 1? 0", "1 + 1? 1"]] * 2
    sent = server.sent[-1][1]
    assert sent["messages"] == PROMPT and sent["temperature"] == 0.5 and sent["max_tokens"] == 5 and sent["n"] == 2
    with pytest.raises(BadInputError, match="chat interface can't go on"):
        generate(model, [PROMPT], 1, begun=[[5]])
    with pytest.raises(BadInputError, match="samples and doesn't score"):
        load_or_connect(f"{server.url}/chat/completions#hosted")


def test_fields_that_a_chat_interface_does_not_know_are_left_out_one_by_one(stub: Callable[..., Stub]) -> None:
    def refuse(body: Any) -> str | None:
        for name in ("max_tokens", "seed", "n", "top_p"):
            if name in body:
                return f"Unsupported parameter: '{name}'"
        return None

    server = stub(chat_reply(refuse))
    model = ServedChat.connect(server.url, "hosted")
    answers = model.sample(PROMPT, 3, max_tokens=5, top_p=1.0, temperature=1.0, seed=7)
    assert len(answers) == 3
    body = server.sent[-1][1]
    assert body["max_completion_tokens"] == 5 and body["temperature"] == 1.0 and not {"n", "seed", "top_p"} & set(body)
    before = len(server.sent)
    model.sample(PROMPT, 1, max_tokens=5, seed=7)
    assert len(server.sent) == before + 1  # what it refuses is known by now
    with pytest.raises(RefusedError, match="temperature"):  # without it other answers would come
        stubborn = stub(chat_reply(lambda body: "temperature must be 0" if "temperature" in body else None))
        ServedChat.connect(stubborn.url, "hosted").sample(PROMPT, 1, temperature=0.5)


def test_one_that_gives_a_single_answer_whatever_it_is_asked_is_asked_again(stub: Callable[..., Stub]) -> None:
    server = stub(chat_reply(at_most=1))
    model = ServedChat.connect(server.url, "hosted")
    assert len(model.sample(PROMPT, 3, max_tokens=5, seed=7)) == 3
    assert [body["seed"] for _, body in server.sent[-3:]] == [7, 8, 9]


def test_a_chat_model_teaches_by_its_texts_and_is_evaluated(
    stub: Callable[..., Stub], tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{stub(chat_reply()).url}#hosted#{tiny_pair.teacher}"
    sizes: dict[str, Any] = {"problems": 4, "max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none"}
    sizes |= {"gradient_checkpointing": False, "max_completion_length": 8}
    run = distill(DistillConfig(teacher=name, student=tiny_pair.student, method="sft", **sizes), tmp_path / "sft")
    assert run.result["traces"] == 4 and all(row["completion_ids"] for row in run.samples())
    assert "asked through its chat interface" in capsys.readouterr().err
    result = evaluate(EvaluateConfig(models=[name], problems=3, samples=2, k=2), tmp_path / "scores").result
    task = result["models"][0]["tasks"][0]
    assert task["pass@1"] == 0 and task["finished_rate"] == 1
    assert "extrinsic_hallucination" not in task["failure_modes"]  # which asks how sure the model was
    with pytest.raises(BadInputError, match="needs the weights themselves"):
        distill(DistillConfig(teacher=name, student=tiny_pair.student, method="gkd", **sizes), tmp_path / "gkd")


def test_a_model_that_is_nowhere_is_told_by_both_interfaces(stub: Callable[..., Stub], waits: list[float]) -> None:
    server = stub(lambda path, body: (404, {}, {"error": "no such model"}))
    with pytest.raises(BadInputError, match=r"chat interface neither.*\(404\)"):
        load_or_connect(f"{server.url}#hosted#zoo:teacher", scores=False)
    assert post.PROBE_TRIES < post.TRIES
