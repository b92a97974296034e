"""Text of other programs, as a person would read it."""

import sys
import time

import pytest

from atlas_jax.online.calls.calls import Answer, CallFailed
from atlas_jax.online.calls.chat_json import judge
from atlas_jax.online.calls.cleaning import cleaned, is_seen
from tests.online.agents.asked import ask, by_command, http_agent, opened
from tests.online.agents.sdk import response_reply
from tests.online.agents.serving import Serving


@pytest.mark.parametrize(
  ("said", "read"),
  [
    ("\x1b[1;32m42\x1b[0m", "42"),
    ("\x9b31m42", "42"),
    ("\x1b]0;a title\x07done", "done"),
    ("see \x1b]8;;http://a\x1b\\here\x1b]8;;\x1b\\", "see here"),
    ("\x1b]0;no end\n42", "\n42"),
    ("\x1b(B\x1b[m42\x1b7\x1b8", "42"),
    ("4\u200b2", "42"),
    ("\ufeff42", "42"),
    ("4\u20602 \u202e24\u202c \u2066x\u2069", "42 24 x"),
    ("a\U000e0069\U000e0067b", "ab"),
    ("soft\u00adly", "softly"),
    ("bell\x07 nul\x00 del\x7f", "bell nul del"),
    ("a\r\nb\rc\x0bd\te", "a\nb\nc\nd\te"),
    ("N\bNA\bAME", "NAME"),
    ("4\u200d2\ufe0f", "42"),
    # No text is hidden in selectors or in tags after a character.
    ("\U0001f600\ufe0f\ufe01\ufe02", "\U0001f600\ufe0f"),
    ("4\U000e0100 \u00e9\U000e0100\u180b", "4 \u00e9"),
    ("\U0001f3f4\U000e0049\U000e0047\U000e004e\U000e007f", "\U0001f3f4"),
    ("\U0001f3f4\U000e0069\U000e007f", "\U0001f3f4"),
  ],
)
def test_what_nobody_sees_is_gone(said, read):
  assert cleaned(said) == read


@pytest.mark.parametrize(
  "text",
  [
    "plain\n\ttext, x < 3 & y",
    "caf\u00e9 \u4f60\u597d \u2028 \u00a0",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family
    "\u2764\ufe0f\u200d\U0001f525",  # a heart on fire
    "\u05d0\u05d1\u05d2 1",
    "4\ufe0f\u20e3",  # a keycap
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "\u845b\U000e0100 \u182d\u180b",  # forms of a Han and a Mongolian letter
    "[31m is no command without its escape",
  ],
)
def test_what_is_seen_stays(text):
  assert cleaned(text) == text


@pytest.mark.parametrize(
  ("text", "seen"),
  [
    *((text, True) for text in ("4", "\u0301", "\u0600", "\ue0b0", "\ufffd")),
    # Letters that the tables of some Python do not have.
    *((text, True) for text in ("\U00010d4a", "\U0002ebf0", "\U000323b0")),
    *((text, False) for text in ("", " \n", "\u00a0\u3000\u2028", "\u2800")),
    *((text, False) for text in ("\u3164\u115f", "\x00\u200b\ufeff\u00ad")),
    *((text, False) for text in ("\U000e0034", "\U000e0100", "\u2065")),
  ],
)
def test_a_text_that_shows_nothing_is_none(text, seen):
  assert is_seen(text) == seen
  if seen:
    assert judge(Answer(text, "stop"), 9, False) == "ok"
  else:
    with pytest.raises(CallFailed, match="without text"):
      judge(Answer(text, "stop"), 9, False)


@pytest.mark.parametrize(
  "part", ["a\n", "\x1b[0m", "\x9b0", "\x90", "\u200d", "a\u200d", "\ba"]
)
def test_it_takes_time_by_the_length_alone(part):
  times = []
  for count in (1, 4):
    began = time.process_time()
    cleaned(part * (50_000 * count))
    times.append(time.process_time() - began)
  assert times[1] < 0.2 + 12 * times[0]


SAID = "\ufeff\x1b[32m4\u200b2\x1b[0m\n"


@pytest.mark.parametrize(
  "kind", ["http", "http path", "python", "own process", "cli", "responses"]
)
def test_of_every_kind(kind, tmp_path):
  file = tmp_path / "f.py"
  file.write_text(f"f = lambda prompt: {SAID!r}")
  code = f"import sys; sys.stdout.buffer.write({SAID.encode()!r})"
  answer = response_reply(SAID) if kind == "responses" else {"a": SAID}
  with Serving(lambda _: answer) as server:
    keys = {
      "http": http_agent(server.url),
      "http path": http_agent(server.url, answer="a"),
      "python": {"target": f"{file}:f"},
      "own process": {"target": f"{file}:f", "own_process": True},
      "cli": {"argv": (sys.executable, "-c", code)},
      "responses": {"model": "m", "base_url": server.url, "api_key_env": None},
    }[kind]
    name = {"http path": "http", "own process": "python"}.get(kind, kind)
    reply = ask(opened(name, keys), "q")
  if kind == "http":  # the whole body, which spells them out
    assert r"\u200b" in reply.text
  else:
    assert reply.text == "42\n"


def test_colours_do_not_hide_an_error_or_a_match():
  code = "print('\\x1b[31mAPI Error\\x1b[0m: 500 no answer')"
  assert by_command(code).status == "error"
  code = "print('\\x1b[1mA: \\x1b[32m4\\x1b[33m2')"
  keys = {"output_regex": r"A: (\d+)"}
  assert by_command(code, **keys).text == "42"
  reply = by_command(code, common={"failure_regex": "^A: 42$"}, **keys)
  assert "failure_regex matches" in reply.error
