"""The official `openai` client against a running service: nothing of ours between them.

Reads DANDYROLL_URL and DANDYROLL_TOKEN from the environment. Exits 1 with the first difference from what the
client's users expect.
"""

from __future__ import annotations

import json
import os
import urllib.request

import openai

URL = os.environ["DANDYROLL_URL"]
TOKEN = os.environ["DANDYROLL_TOKEN"]
PROMPT = "def read_lines(path):\n"
MESSAGES = [
    {"role": "system", "content": "You write Python."},
    {"role": "user", "content": "Read a file line by line."},
]


def detect(text: str) -> dict:
    """What `/v1/detect` says of a text."""
    request = urllib.request.Request(
        f"{URL}/v1/detect",
        data=json.dumps({"text": text}).encode(),
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def watermark(answer) -> dict:
    """The object that the service adds; the client keeps what it does not know."""
    found = answer.model_extra["watermark"]
    assert found["applied"] is True, found
    assert found["version"] >= 1 and found["receipt"].startswith("ar_"), found
    return found


def expect(error: type[Exception], call) -> Exception:
    try:
        call()
    except error as caught:
        return caught
    raise AssertionError(f"{error.__name__} was expected")


def main() -> None:
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key=TOKEN, max_retries=0)
    models = client.models.list()
    model = models.data[0].id
    assert client.models.retrieve(model).id == model

    # Not streaming, and streaming: the same text for the same seed.
    settings = {"model": model, "prompt": PROMPT, "max_tokens": 220, "seed": 7, "temperature": 1.0}
    whole = client.completions.create(**settings)
    text = whole.choices[0].text
    assert whole.object == "text_completion" and whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    mark = watermark(whole)
    chunks = list(client.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert streamed == text, "streaming gave another text for the same seed"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert watermark(chunks[-1])["version"] == mark["version"]
    found = detect(text)
    assert found["verdict"] == "detected", found

    # Chat.
    settings = {"model": model, "messages": MESSAGES, "max_tokens": 220, "seed": 11}
    chat = client.chat.completions.create(**settings)
    assert chat.object == "chat.completion" and chat.choices[0].message.role == "assistant"
    watermark(chat)
    chunks = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == chat.choices[0].message.content, "streaming gave another text for the same seed"
    watermark(chunks[-1])

    # What else its users send.
    two = client.completions.create(model=model, prompt=[PROMPT, "import os\n"], max_tokens=8, n=2)
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
    stopped = client.completions.create(model=model, prompt=PROMPT, max_tokens=100, stop=["\n"], seed=3)
    assert "\n" not in stopped.choices[0].text
    likely = client.completions.create(model=model, prompt=PROMPT, max_tokens=4, logprobs=0)
    assert len(likely.choices[0].logprobs.token_logprobs) == likely.usage.completion_tokens
    likely = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=4, logprobs=True)
    assert all(token.logprob <= 0 for token in likely.choices[0].logprobs.content)
    parts = [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}]
    client.chat.completions.create(model=model, messages=parts, max_completion_tokens=4)
    plain = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=4, extra_body={"watermark": {"enabled": False}}
    )
    assert plain.model_extra["watermark"]["applied"] is False

    # A client that leaves in mid-stream, and that it hurts nobody.
    with client.completions.create(model=model, prompt=PROMPT, max_tokens=400, stream=True) as stream:
        next(iter(stream))
    client.completions.create(model=model, prompt=PROMPT, max_tokens=2)

    # Errors arrive as the client's own exceptions.
    stranger = openai.OpenAI(base_url=f"{URL}/v1", api_key="wmk_nobody", max_retries=0)
    expect(openai.AuthenticationError, lambda: stranger.models.list())
    expect(openai.NotFoundError, lambda: client.models.retrieve("no-such-model"))
    bad = expect(
        openai.UnprocessableEntityError,
        lambda: client.completions.create(model=model, prompt=PROMPT, temperature=-1),
    )
    assert "temperature" in bad.message, bad.message
    # What is not offered is refused by name, not ignored.
    bad = expect(
        openai.UnprocessableEntityError,
        lambda: client.completions.create(model=model, prompt=PROMPT, logprobs=2),
    )
    assert "logprobs" in bad.message, bad.message
    expect(openai.NotFoundError, lambda: client.completions.create(model="no-such-model", prompt=PROMPT))
    print(f"openai {openai.__version__}: completions, chat, streaming, errors as expected")


if __name__ == "__main__":
    main()
