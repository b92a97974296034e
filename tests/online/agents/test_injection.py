"""Whatever stands in a question reaches each kind of agent unchanged.

The oracle is the agent itself: it answers with the sha256 and the length of
what it got. Nothing in the text is run, filled in or read as an option.
"""

import pathlib
import sys

import pytest

from tests.online.agents import echoes
from tests.online.agents.asked import ask, http_agent, opened
from tests.online.agents.sdk import (
  chat_reply,
  response_reply,
  sdk_agent,
  sdk_missing,
)
from tests.online.agents.serving import Serving

ECHOES = pathlib.Path(echoes.__file__)
NASTY = (
  "\"double\" 'single' `touch x` $(touch x) ${HOME} $HOME %PATH% {field}"
  " {prompt} {prompt_file} {0} {{}} \\n \\ ; touch x && touch x | touch x\n"
  "second line\r\n\ttab \x1b[31m --help -- 你好 ñ 🧮 \u2028 </teaching> !! *\n"
)
SHORT = {
  "nasty": NASTY,
  "an option": "--file",
  "a space": " ",
  "trailing": "\n\nx\n\n",
}
LONG = {
  "NUL": f"before\0after {NASTY}",
  "1 MB": (NASTY * 10_000)[: 1 << 20],
}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  yield
  assert list(tmp_path.iterdir()) == [], "something was executed or left behind"


def reached(agent, text: str) -> None:
  reply = ask(agent, text)
  assert reply.status == "ok", reply
  assert reply.text.strip() == echoes.of(text)


def each(*texts):
  items = [(k, v) for group in texts for k, v in group.items()]
  return pytest.mark.parametrize(
    "text", [v for _, v in items], ids=[k for k, _ in items]
  )


@each(SHORT, LONG)
def test_http_body(text):
  def answer(seen):
    # A whole value, and one inside a longer text, nested in lists.
    whole, inside = seen.json["a"][1]["whole"], seen.json["a"][0]
    assert inside == f"Q: {text} | {text}"
    return {"out": [{"text": echoes.of(whole)}]}

  body = {"a": ["Q: {prompt} | {prompt}", {"whole": "{prompt}"}], "n": 3}
  with Serving(answer) as server:
    keys = {"url": server.url, "body": body, "answer": "out[0].text"}
    reached(opened("http", keys), text)


def test_http_body_is_filled_and_the_prompt_is_not():
  body = {"q": "{prompt}", "a": [{"key": "k ${KEY}"}]}
  with Serving(lambda seen: seen.json) as server:
    agent = opened(
      "http", {"url": server.url, "body": body}, environ={"KEY": "v"}
    )
    ask(agent, "${KEY} ${OTHER}")
    (seen,) = server.seen
  assert seen.json == {"q": "${KEY} ${OTHER}", "a": [{"key": "k v"}]}


def test_what_is_no_variable_stays_in_a_body():
  body = {"q": "{prompt}", "a": "it costs ${ 5", "b": {"c": ["{", "}", '"}']}}
  with Serving(lambda _: "x") as server:
    agent = opened("http", {"url": server.url, "body": body})
    ask(agent, 'a "quoted" {prompt}')
    (seen,) = server.seen
  assert seen.json == body | {"q": 'a "quoted" {prompt}'}


@each(SHORT)
def test_http_query(text):
  with Serving(lambda seen: echoes.of(seen.query["q"])) as server:
    keys = {"url": server.url, "method": "GET", "query": {"q": "{prompt}"}}
    reply = ask(opened("http", keys), text)
  assert reply.text == f'"{echoes.of(text)}"'  # the whole body: JSON text


@each(SHORT, LONG)
@pytest.mark.parametrize("own_process", [False, True])
@pytest.mark.parametrize("function", ["of", "of_async"])
def test_python(text, own_process, function):
  keys = {"target": f"{ECHOES}:{function}", "own_process": own_process}
  reached(opened("python", keys), text)


COMMAND = (sys.executable, str(ECHOES))
BY_FILE = {"argv": (*COMMAND, "--file", "{prompt_file}"), "prompt_by": "file"}
BY_ARGUMENT = {
  "argv": (*COMMAND, "--text", "{prompt}"),
  "prompt_by": "argument",
}


@each(SHORT, LONG)
@pytest.mark.parametrize("keys", [{"argv": COMMAND}, BY_FILE])
def test_cli(text, keys):
  reached(opened("cli", keys), text)


@each(SHORT, {"just fits": "é" * 65_535})
def test_cli_argument(text):
  reached(opened("cli", BY_ARGUMENT), text)


@pytest.mark.parametrize(
  ("text", "why"),
  [
    ("é" * 65_536, "Argument list too long"),
    ("a\0b", "embedded null byte"),
  ],
)
def test_cli_argument_that_cannot_be(text, why):
  reply = ask(opened("cli", BY_ARGUMENT), text)
  assert reply.status == "error" and reply.text is None
  assert why in reply.error and "'stdin' or 'file'" in reply.error


@each(SHORT, LONG)
def test_responses(text):
  def answer(seen):
    return response_reply(echoes.of(seen.json["input"]))

  with Serving(answer) as server:
    keys = {"model": "m", "base_url": server.url, "api_key_env": None}
    reached(opened("responses", keys), text)


@sdk_missing
@each(SHORT, LONG)
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_agents_sdk(text, api):
  def answer(seen):
    if api == "responses":
      (item,) = seen.json["input"]
      return response_reply(echoes.of(item["content"]))
    (message,) = [m for m in seen.json["messages"] if m["role"] == "user"]
    return chat_reply(echoes.of(message["content"]))

  with Serving(answer) as server:
    reached(opened("agents_sdk", sdk_agent(server.url, api=api)), text)


@pytest.mark.parametrize("kind", ["http", "python", "cli"])
def test_half_a_surrogate_is_refused_before_anything_is_sent(kind):
  keys = {
    "http": http_agent("http://127.0.0.1:9"),
    "python": {"target": f"{ECHOES}:of"},
    "cli": {"argv": ("cat",)},
  }
  reply = ask(opened(kind, keys[kind]), "a \ud800 b")
  assert reply.error == "the prompt is not valid Unicode; nothing was sent"
