"""What passes through the proxy untaught."""

import pytest

from tests.online.proxied import ASK, run, teacher, upstream


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"n": 2}, "n"),
    ({"messages": [{"role": "function", "content": "7"}, *ASK]}, "tools"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"messages": [*ASK, {"role": "assistant", "content": "It"}]}, None),
    ({"messages": [{"role": "user", "content": "long " * 10}]}, "too_long"),
    (
      {
        "messages": [
          {
            "role": "user",
            "content": [
              {"type": "text", "text": "What is it?"},
              {"type": "image_url", "image_url": {"url": "data:,"}},
            ],
          }
        ]
      },
      "media",
    ),
  ],
)
def test_what_asks_for_structure_passes_through(changes, reason):
  async def check(proxied):
    how, _ = await proxied.ask(**changes)
    assert how == "passed_through"
    assert await proxied.counts() == {"passed_through": 1}
    name = reason or "not_a_question"
    line = f'atlas_proxy_passed_through_total{{reason="{name}"}}'
    assert await proxied.metric(line) == 1

  with upstream(lambda _: "fine") as up, teacher() as teach:
    run(check, up, teach, max_question_bytes=20)
  assert teach.calls == []
  (call,) = up.calls
  assert call.body == {"model": "stub", "messages": ASK, **changes}


# As servers other than OpenAI's take them, in the body itself.
CONSTRAINTS = {
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
  "prediction": {"type": "content", "content": "def f(): pass"},
  "audio": {"voice": "alloy", "format": "wav"},
}


@pytest.mark.parametrize("field", CONSTRAINTS)
def test_a_constraint_of_any_server_passes_through_as_it_is(field):
  changes = {field: CONSTRAINTS[field]}

  async def check(proxied):
    url = f"{proxied.url}/v1/chat/completions"
    for body in (changes, {field: None}):
      sent = {"model": "any", "messages": ASK, **body}
      async with proxied.session.post(url, json=sent) as answer:
        hows.append(answer.headers["x-atlas-teaching"])
    line = f'atlas_proxy_passed_through_total{{reason="{field}"}}'
    assert await proxied.metric(line) == 1

  hows = []
  with upstream() as up, teacher() as teach:
    run(check, up, teach)
  assert hows == ["passed_through", "taught"]
  assert up.calls[0].body == {"model": "stub", "messages": ASK, **changes}


def test_a_text_format_is_no_structure():
  async def check(proxied):
    how, _ = await proxied.ask(
      response_format={"type": "text"},
      n=1,
      modalities=["text"],
      function_call="none",
      functions=[],
    )
    assert how == "taught"

  with upstream() as up, teacher() as teach:
    run(check, up, teach)
