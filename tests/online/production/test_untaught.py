"""What passes through the proxy untaught, and what is no chat."""

import pytest

from tests.online.production.proxied import ASK, proxy, upstream


def asking(content, role="user") -> dict:
  return {"messages": [{"role": role, "content": content}]}


IMAGE = [
  {"type": "text", "text": "What is it?"},
  {"type": "image_url", "image_url": {"url": "data:,"}},
]
# As OpenAI takes them, then as other servers do, in the body itself.
CONSTRAINTS = {
  "tools": [{"type": "function", "function": {"name": "f"}}],
  "response_format": {"type": "json_object"},
  "modalities": ["text", "audio"],
  "functions": [{"name": "f"}],
  "function_call": {"name": "f"},
  "prediction": {"type": "content", "content": "def f(): pass"},
  "audio": {"voice": "alloy", "format": "wav"},
  "grammar": "root ::= [0-9]+",
  "json_schema": {"type": "object"},
  "regex": "[0-9]+",
  "ebnf": "root ::= [0-9]",
  "structural_tag": {"structures": []},
  "guided_json": {"type": "object"},
  "guided_regex": "[0-9]+",
  "guided_choice": ["yes", "no"],
  "guided_grammar": "root ::= [0-9]+",
  "guided_json_object": True,
  "guided_decoding_backend": "xgrammar",
  "guided_whitespace_pattern": " ?",
  "structured_outputs": {"choice": ["yes", "no"]},
  "allowed_token_ids": [1, 2],
}


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    *(({name: value}, name) for name, value in CONSTRAINTS.items()),
    ({"n": 2}, "n"),
    ({"messages": [{"role": "function", "content": "7"}, *ASK]}, "tools"),
    ({"messages": [{"role": "tool", "content": "7"}, *ASK]}, "tools"),
    (asking("It", role="assistant"), "not_a_question"),
    (asking("long " * 10), "too_long"),
    (asking(IMAGE), "media"),
  ],
)
async def test_what_asks_for_more_than_a_text_passes_as_it_is(changes, reason):
  body = {"model": "any", "messages": ASK, **changes}
  async with proxy(upstream(lambda _: "fine"), max_question_bytes=20) as p:
    status, _, headers = await p.post(**body)
    assert (status, headers["x-atlas-teaching"]) == (200, "passed_through")
    assert await p.counts() == {"passed_through": 1}
    line = f'atlas_proxy_passed_through_total{{reason="{reason}"}}'
    assert await p.metric(line) == 1
  assert p.teach.calls == []
  assert [call.body for call in p.up.calls] == [{**body, "model": "stub"}]


async def test_what_asks_for_a_plain_text_is_taught():
  plain = {
    **dict.fromkeys(CONSTRAINTS),
    "response_format": {"type": "text"},
    "n": 1,
    "modalities": ["text"],
    "function_call": "none",
    "functions": [],
  }
  async with proxy() as p:
    _, _, headers = await p.post(**plain)
    assert headers["x-atlas-teaching"] == "taught"


@pytest.mark.parametrize(
  ("data", "status", "words"),
  [
    (b"{", 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    (b"[]", 400, "'messages'"),
    (b'{"messages": []}', 400, "'messages'"),
    (b'{"messages": ["hello"]}', 400, "'messages'"),
    (b'{"x": "' + b"y" * 200_000 + b'"}', 413, "200000 bytes"),
    (b"[" + b"0," * 100_001, 413, "100000 values"),
  ],
)
async def test_what_is_no_chat_is_refused(data, status, words):
  bounds = {"max_request_bytes": 200_000}
  if b"0,0" in data:
    bounds = {}
  async with proxy(**bounds) as p:
    code, text, _ = await p.post(data)
    assert code == status and words in text
    assert await p.counts() == {"refused": 1}
  assert p.up.calls == p.teach.calls == []


async def test_without_a_model_of_the_upstream_the_client_names_it():
  async with proxy(sent={"model": None}) as p:
    assert (await p.ask(model="stub"))[0] == "taught"
    status, text, _ = await p.post(model="other")
    assert status == 404 and "model other" in text
