"""How many values a body holds, before it is parsed."""

import json
import random
import time

import pytest

from atlas_jax.online.calls.calls import CallFailed
from atlas_jax.online.calls.chat_json import MOST_PARTS, parsed, parts_of
from atlas_jax.online.production.chats import read_chat
from atlas_jax.online.production.errors import Refused


def values(body) -> int:
  """All values and names in parsed JSON."""
  if isinstance(body, dict):
    return 1 + sum(1 + values(v) for v in body.values())
  if isinstance(body, list):
    return 1 + sum(map(values, body))
  return 1


@pytest.mark.parametrize(
  "text",
  [
    "[" + "{}," * MOST_PARTS + "{}]",
    "[" + "[]," * MOST_PARTS + "0]",
    "[" * (2 * MOST_PARTS),
    "[" + "1," * MOST_PARTS + "1]",
    "[" + '"",' * (2 * MOST_PARTS) + '""]',
    "[" + '"\\"",' * (2 * MOST_PARTS) + '""]',
    "[" + '"\\\\",' * (2 * MOST_PARTS) + '""]',
    "[" + r'"\\\"{",' * (2 * MOST_PARTS) + '""]',
    '{"a":' * MOST_PARTS + "0" + "}" * MOST_PARTS,
    "[" + '{"":0},' * MOST_PARTS + "0]",
    '{"messages": [' + '{"role":"user"},' * MOST_PARTS + "{}]}",
    '{"x": "\\\\", "messages": [' + "{}," * MOST_PARTS + '{}], "y": "\\""}',
  ],
)
def test_too_many_values_are_found_wherever_they_are(text):
  assert parts_of(text.encode()) > MOST_PARTS
  with pytest.raises(CallFailed, match=f"over {MOST_PARTS} values"):
    parsed(text.encode())


@pytest.mark.parametrize(
  "text",
  [
    "{},[]:" * MOST_PARTS,
    '"' * MOST_PARTS,
    "\\" * MOST_PARTS,
    '\\"{' * MOST_PARTS,
  ],
)
def test_a_long_text_is_one_value(text):
  body = {"messages": [{"role": "user", "content": text}]}
  for ascii_only in (True, False):
    data = json.dumps(body, ensure_ascii=ascii_only).encode()
    assert parts_of(data) < 20
    assert read_chat(data, 1000).reason == "too_long"


def test_parts_bound_the_values_of_any_json():
  draw = random.Random(0)
  scalars = ("", '"', "\\", '\\"', "a,b", "{[:", 1, -2.5, True, None, "\u20ac")

  def value(depth):
    kind = draw.choice("sld") if depth else "s"
    if kind == "s":
      return draw.choice(scalars)
    size = range(draw.randrange(4))
    if kind == "l":
      return [value(depth - 1) for _ in size]
    return {f"{draw.choice(scalars)}{i}": value(depth - 1) for i in size}

  for _ in range(300):
    body = value(5)
    assert values(body) <= 1 + parts_of(json.dumps(body).encode())


@pytest.mark.parametrize(
  "encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"]
)
def test_another_encoding_hides_nothing(encoding):
  text = '{"messages": [{"role": "user", "content": "1+1?"}]}'
  with pytest.raises(Refused, match="not JSON"):
    read_chat(text.encode(encoding), 1000)
  with pytest.raises(CallFailed, match="broken JSON"):
    parsed(text.encode(encoding))


def test_a_string_that_never_ends_is_read_once():
  bodies = ["," * (MOST_PARTS + 1) + '"' + end for end in ('\\"' * 10**6, "\\")]
  start = time.process_time()
  for body in bodies:
    assert parts_of(body.encode()) > MOST_PARTS
  assert time.process_time() - start < 5  # hours, if each quote began anew
