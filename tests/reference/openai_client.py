"""Asks `mashbill serve` by OpenAI's own client, and compares what it says with transformers.

    python tests/reference/openai_client.py MASHBILL [MODEL_FOLDER...]

MASHBILL is the binary. Without folders: the tiny random models of tests/fixtures, and stories260K where ../shared/data is.
"""

import concurrent.futures
import contextlib
import os
import pty
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import openai
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
# Both sides compute in f32 and sum in different orders.
TOLERANCE = 1e-4
# As tests/it/client.rs: the fixtures' characters suffice for it.
TEMPLATE = (
    "{%- for message in messages -%}{{ message.role[0] + ':' + message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt %}a:{% endif -%}"
)


@contextlib.contextmanager
def served(binary, folder, *flags, key=None):
    environment = {name: value for name, value in os.environ.items() if name != "MASHBILL_API_KEY"}
    command = [binary, "serve", str(folder), "--name", "m", "--port", "0", "--quiet", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), "it does not serve"
        with openai.OpenAI(base_url=url, api_key=key or "any", max_retries=0, timeout=60) as client:
            yield client
        process.terminate()
        assert process.wait(15) == 143
    finally:
        process.kill()


class Reference:
    """What transformers says of the same folder."""

    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def logprobs(self, ids):
        """Of every token of the vocabulary, behind each prefix: [tokens, vocabulary]."""
        with torch.no_grad():
            return torch.log_softmax(self.model(torch.tensor([ids])).logits[0].double(), -1)

    def greedy(self, ids, tokens):
        ids = list(ids)
        ends = self.model.generation_config.eos_token_id
        for _ in range(tokens):
            ids.append(self.logprobs(ids)[-1].argmax().item())
            if ids[-1] in (ends if isinstance(ends, list) else [ends]):
                break
        return ids


def near(told, expected, what):
    assert abs(told - expected) < TOLERANCE, f"{what}: {told} is not {expected}"


def completions(client, reference, prompt):
    tokens = 24
    ids = reference.tokenizer(prompt).input_ids
    expected = reference.greedy(ids, tokens)
    said = expected[len(ids) :]
    has_ended = said[-1] == reference.tokenizer.eos_token_id
    told = [id for id in said if not has_ended or id != said[-1]]
    greedy = client.completions.create(model="m", prompt=prompt, temperature=0, max_tokens=tokens, logprobs=5)
    choice = greedy.choices[0]
    before = reference.tokenizer.decode(ids, skip_special_tokens=True)
    text = reference.tokenizer.decode(expected, skip_special_tokens=True)[len(before) :]
    assert choice.text == text, f"{choice.text!r} is not {text!r}"
    assert choice.finish_reason == ("stop" if has_ended else "length")
    assert (greedy.usage.prompt_tokens, greedy.usage.completion_tokens) == (len(ids), len(said))
    logprobs = reference.logprobs(expected)
    assert "".join(choice.logprobs.tokens) == choice.text and len(choice.logprobs.tokens) == len(told)
    for at, (id, ours, tops) in enumerate(zip(told, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs)):
        theirs = logprobs[len(ids) + at - 1]
        near(ours, theirs[id].item(), f"token {at}")
        best = theirs.topk(5).values.tolist()
        assert len(tops) == 5
        for ours, theirs in zip(sorted(tops.values(), reverse=True), best):
            near(ours, theirs, f"likeliest at {at}")
    for offset, token in zip(choice.logprobs.text_offset, choice.logprobs.tokens):
        assert choice.text[offset : offset + len(token)] == token

    by_ids = client.completions.create(model="m", prompt=ids, temperature=0, max_tokens=tokens)
    assert by_ids.choices[0].text == choice.text, "a prompt of tokens is the prompt"
    echoed = client.completions.create(model="m", prompt=prompt, temperature=0, max_tokens=tokens, echo=True)
    assert echoed.choices[0].text == prompt + choice.text
    stop = choice.text[5:8]
    stopped = client.completions.create(model="m", prompt=prompt, temperature=0, max_tokens=tokens, stop=["zzzz", stop])
    assert stopped.choices[0].text == choice.text[: choice.text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def drawn(client, reference, prompt):
    ask = dict(model="m", prompt=prompt, max_tokens=20, seed=11, n=3)
    first, second = (client.completions.create(**ask) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in second.choices], "the seed draws the same"
    assert len(set(texts)) == 3, "n answers differ"
    streamed = {}
    for chunk in client.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            streamed[choice.index] = streamed.get(choice.index, "") + choice.text
        usage = chunk.usage
    assert [streamed[index] for index in range(3)] == texts, "a stream says what a whole answer says"
    assert usage == first.usage


def conversations(client, reference):
    messages = [{"role": "system", "content": "add"}, {"role": "user", "content": "12+7="}]
    ids = reference.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    ask = dict(model="m", messages=messages, max_completion_tokens=24, logprobs=True, top_logprobs=4, seed=5)
    whole = client.chat.completions.create(**ask)
    choice = whole.choices[0]
    assert whole.usage.prompt_tokens == len(ids)
    words = choice.logprobs.content
    assert b"".join(bytes(word.bytes or []) for word in words).decode() == choice.message.content
    # One character is one token here, so that the tokens can be read off the text.
    said = [reference.tokenizer.convert_tokens_to_ids(word.token) for word in words]
    logprobs = reference.logprobs(ids + said)
    for at, (id, word) in enumerate(zip(said, words)):
        theirs = logprobs[len(ids) + at - 1]
        near(word.logprob, theirs[id].item(), f"token {at}, drawn at temperature 1")
        assert len(word.top_logprobs) == 4
        for top, expected in zip(word.top_logprobs, theirs.topk(4).values.tolist()):
            near(top.logprob, expected, f"likeliest at {at}")
    text, reasons, streamed = "", [], []
    for chunk in client.chat.completions.create(**ask, stream=True):
        text += chunk.choices[0].delta.content or ""
        reasons.append(chunk.choices[0].finish_reason)
        streamed += chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else []
    assert text == choice.message.content and streamed == words
    assert [reason for reason in reasons if reason] == [choice.finish_reason]
    answer = {"role": "assistant", "content": choice.message.content}
    longer = [*messages, answer, {"role": "user", "content": "1"}]
    ids = reference.tokenizer.apply_chat_template(longer, add_generation_prompt=True, return_dict=False)
    onward = client.chat.completions.create(model="m", messages=longer, max_tokens=8)
    assert onward.usage.prompt_tokens == len(ids), "a second turn has the tokens of transformers"
    # The client's helper takes an answer that was cut off for an error.
    stop = choice.message.content[1:3] or "never said"
    ask = dict(model="m", messages=messages, max_completion_tokens=24, seed=5, stop=stop)
    with client.chat.completions.stream(**ask) as stream:
        final = stream.get_final_completion().choices[0]
        assert final.message.content == choice.message.content.split(stop)[0]


def crowd(client, prompt):
    """32 at once say what each says alone."""

    def ask(i):
        more = dict(temperature=0.0 if i % 4 == 0 else 0.9, top_p=0.8 if i % 3 == 0 else 1.0, logprobs=2)
        answer = client.completions.create(model="m", prompt=prompt[: 2 + i % 4], max_tokens=4 + 3 * i, seed=i, **more)
        return answer.choices

    alone = [ask(i) for i in range(32)]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(32))) == alone


def faults(client, context):
    def refused(error, message, **more):
        ask = dict(model="m", prompt="1", max_tokens=2) | more
        try:
            client.completions.create(**ask)
        except error as caught:
            assert type(caught) is error and message in caught.message, caught
        else:
            raise AssertionError(f"{more} was not refused")

    refused(openai.NotFoundError, "no model `gpt-4o`", model="gpt-4o")
    refused(openai.BadRequestError, "`presence_penalty` is not supported", presence_penalty=0.5)
    refused(openai.BadRequestError, f"context of {context}", max_tokens=context)
    refused(openai.BadRequestError, "`temperature` must be a number", temperature=7)
    refused(openai.BadRequestError, "is no parameter", extra_body={"mirostat": 1})
    assert client.models.retrieve("m") == client.models.list().data[0]


def keys(binary, folder):
    with served(binary, folder, "--api-key", "secret", key="secret") as client:
        client.models.list()
        try:
            client.with_options(api_key="wrong").models.list()
        except openai.AuthenticationError as caught:
            assert caught.code == "invalid_api_key"
        else:
            raise AssertionError("a wrong key was let in")


def full(binary, folder):
    """A queue that is full refuses; a client that leaves makes room."""
    with served(binary, folder, "--slots", "1", "--queue", "0") as client:
        endless = dict(model="m", prompt="1", max_tokens=29_000, logit_bias={"1": -100}, stream=True)
        running = client.completions.create(**endless)
        next(iter(running))
        try:
            client.completions.create(model="m", prompt="1", max_tokens=1)
        except openai.RateLimitError as caught:
            assert caught.code == "queue_full" and caught.response.headers["retry-after"] == "1"
        else:
            raise AssertionError("there was room")
        running.close()
        patient = client.with_options(max_retries=5)
        patient.completions.create(model="m", prompt="1", max_tokens=1)


def typed(binary, folder):
    """`chat` in a terminal: a line is edited, Ctrl-C stops an answer, twice on an empty line leaves."""
    pid, terminal = pty.fork()
    if pid == 0:
        command = [binary, "chat", str(folder), "--plain", "--temperature", "0", "--max-tokens", "29000"]
        os.environ.update(TERM="xterm", NO_COLOR="1")
        os.execv(binary, command)
    seen = b""

    def wait_for(text, timeout=20):
        nonlocal seen
        end = time.monotonic() + timeout
        while text not in seen:
            ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} in {seen!r}"
            seen += os.read(terminal, 4096)
        seen = seen[seen.index(text) + len(text) :]

    wait_for(b"each line is continued as it stands; temperature 0; context 30000")
    wait_for(b"> ")
    # A slip, mended with backspace.
    os.write(terminal, b"12+8\x7f7=\r")
    time.sleep(1)
    os.write(terminal, b"\x03")
    wait_for(b"[stopped]")
    wait_for(b"> ")
    # The line before, by the arrow.
    os.write(terminal, b"\x1b[A")
    wait_for(b"12+7=")
    os.write(terminal, b"\x03")
    wait_for(b"Ctrl-C once more leaves")
    wait_for(b"> ")
    os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130


def main(binary, folders):
    tiny = ROOT / "tests/fixtures/llama"
    if not folders:
        folders = [tiny, ROOT / "tests/fixtures/qwen3"]
        stories = ROOT / "../shared/data/models/stories260K/hf"
        folders += [stories] if stories.exists() else []
    for folder in folders:
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            (Path(copy) / "chat_template.jinja").write_text(TEMPLATE)
            reference = Reference(copy)
            is_tiny = reference.tokenizer.vocab_size <= 64
            prompt = "12+7=" if is_tiny else "Once upon a time, there was a little"
            with served(binary, copy) as client:
                completions(client, reference, prompt)
                drawn(client, reference, prompt)
                crowd(client, prompt)
                faults(client, reference.model.config.max_position_embeddings)
                if is_tiny:
                    conversations(client, reference)
        print(f"{os.path.relpath(folder, ROOT)}: as transformers has it")
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(tiny, copy, dirs_exist_ok=True)
        config = Path(copy) / "config.json"
        longer = config.read_text().replace('"max_position_embeddings": 128', '"max_position_embeddings": 30000')
        config.write_text(longer)
        keys(binary, copy)
        full(binary, copy)
        typed(binary, copy)
    print("keys, queue and terminal: as they should be")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
