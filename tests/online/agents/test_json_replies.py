"""JSON as programs print it, read alike from a command and over HTTP."""

import json

import pytest
from aiohttp import web

from atlas_jax.config import ConfigError
from atlas_jax.online.agents.json_replies import answer_in, follow, steps_of
from atlas_jax.online.calls.calls import CallFailed
from tests.online.agents.asked import by_command, by_http, http_agent, opened

REPLY = {
  "choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}],
  "data": {"items": [{"text": "c", "n": 3.5, "none": None}], "0": "key"},
  "a.b": {"[x]": ["d"]},
}


@pytest.mark.parametrize(
  ("path", "value"),
  [
    ("choices[0].message.content", "a"),
    ("choices[-1].message.content", "b"),
    ("choices.1.message.content", "b"),
    ("data.items.0.text", "c"),
    ("data.0", "key"),
    ("data.items[0].n", 3.5),
    ("data.items[0].none", None),
    ('["a.b"]["[x]"][0]', "d"),
  ],
)
def test_a_path_is_followed(path, value):
  assert follow(REPLY, path) == value


@pytest.mark.parametrize(
  "path", ["", ".", "a.", "a..b", "a[", "a[x]", "[0", "a b]", 'a["b]']
)
def test_what_is_no_path(path):
  assert steps_of(path) == []
  if path:  # an empty one is none that is set
    with pytest.raises(
      ConfigError, match=r"config\.http\.answer=.* must be a path"
    ):
      opened("http", http_agent("http://a", answer=path))


def printed(text: str, answer: str, failure: str | None):
  code = f"import sys; sys.stdout.buffer.write({text.encode()!r})"
  return by_command(code, output_path=answer, failure_path=failure)


def served(text: str, answer: str, failure: str | None):
  reply = web.Response(text=text)
  return by_http(reply, answer=answer, failure_path=failure)


BOTH = pytest.mark.parametrize("asked", [printed, served])
CLAUDE = """{"type":"system","subtype":"init","tools":[]}
{"type":"assistant","message":{"content":[{"type":"text","text":"hm"}]}}
{"type":"result","subtype":"success","is_error":false,"result":"42"}
"""
CODEX = """{"type":"thread.started","thread_id":"t"}
{"type":"error","message":"Reconnecting... 1/5"}
{"type":"item.completed","item":{"type":"reasoning","text":"think"}}
{"type":"item.completed","item":{"type":"agent_message","text":"42"}}
{"type":"turn.completed","usage":{"input_tokens":9}}
"""
FAILED = '{"type":"turn.failed","error":{"message":"lost"}}\n'
CUT = '[\n{"result": "41"},\n{"result": "42"}\n'
PRETTY = '{\n  "result": "42",\n  "items": [\n    {"result": "no"}\n  ]\n}\n'


@BOTH
@pytest.mark.parametrize(
  ("text", "path"),
  [
    (CLAUDE, "result"),
    (CODEX, "item.text"),
    (PRETTY, "result"),
    ("\ufeff" + PRETTY, "result"),
    ("Loading the model ...\n" + PRETTY, "result"),
    ("[info] ready\n{braces}\n" + PRETTY + "done in 3 s\n", "result"),
    ('[warn\n{"result": "42"}', "result"),
    ('[1] 4242\n{"result": "42"}', "result"),
    ('```json\n{"result": "42"}\n```', "result"),
    ('data: {"result": "42"}\n\ndata: [DONE]\n', "result"),
    ('\x1b[2m{"result": "\\u001b[1m42"}\x1b[0m', "result"),
    ('{"result": "41"}\r\n{"result": "42"}\r\n', "result"),
    ('{"result": "42"}\n{"result": null}', "result"),
    ('{"result": 42}', "result"),
    ('[{"result": "42"}]', "[0].result"),
  ],
)
def test_the_answer_is_found(asked, text, path):
  reply = asked(text, path, None)
  assert (reply.status, reply.text) == ("ok", "42"), reply.error


@BOTH
@pytest.mark.parametrize(
  ("text", "path", "failure", "error"),
  [
    (CLAUDE.replace("false", "true"), "result", None, "with an error"),
    # What it said meanwhile is no answer where it failed in the end.
    (CODEX + FAILED, "item.text", None, "lost"),
    (CLAUDE + '{"fault": "disk"}', "result", "fault", 'a failure: "disk"'),
    ('{"result": "42"', "result", None, "are not valid JSON"),
    (CUT, "[0].result", None, "are not valid JSON"),
    ("API Error: 500 no answer", "result", None, "500"),
    ('{"other": "42"}\n{"more": 1}', "result", None, "has no 'result'"),
    ('{"result": ["42"]}', "result", None, "['42'] is no text"),
    ('{"result": "\\ud800"}', "result", None, "not valid Unicode"),
  ],
)
def test_what_is_no_answer(asked, text, path, failure, error):
  reply = asked(text, path, failure)
  assert (reply.status, reply.text) == ("error", None)
  assert error in reply.error


@BOTH
def test_a_failure_before_the_answer_has_passed(asked):
  text = '{"fault": "disk, again in 1 s"}\n{"result": "42"}'
  assert asked(text, "result", "fault").text == "42"


@BOTH
def test_a_null_is_empty(asked):
  assert asked('{"result": null}', "result", None).status == "empty"


def test_each_part_is_read_where_it_stands():
  text = '{"result": "4", "why": "stop"}\n{"usage": {"in": 7, "out": 2}}'
  paths = {"answer": "result", "finish_reason": "why"}
  paths |= {"prompt_tokens": "usage.in", "completion_tokens": "usage.out"}
  reply = by_http(web.Response(text=text), **paths)
  assert (reply.prompt_tokens, reply.completion_tokens) == (7, 2)


def test_a_key_in_what_is_shown_is_whole_for_who_takes_it_out():
  key = "sk-" + "ABCDEFGH" * 20
  body = json.dumps({"echo": {"authorization": f"Bearer {key}"}})
  with pytest.raises(CallFailed, match=f"Bearer {key}"):
    answer_in(body, {"answer": "text"}, "200", "9 characters of text")
