"""Heads of an upstream's answers: without end, and with odd values."""

import pytest

from tests import hostile_server
from tests.hostile_server import Hostile
from tests.online.asking_proxy import asked
from tests.online.proxied import run, teacher

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


@pytest.mark.parametrize(
  "answer",
  [
    lambda: hostile_server.never_a_head(EARLY * 500),
    lambda: hostile_server.never_a_head(EARLY, 0.02),
    lambda: hostile_server.never_a_head(b"HTTP/1.1 200 OK\r\nX: y", 0.02),
  ],
)
def test_the_head_of_an_answer_has_an_end(answer):
  """Though something comes all the time, which no silence ends."""

  async def check(proxied):
    status, text, _ = await asked(proxied)
    assert status == 504 and "did not answer in time" in text

  with Hostile(answer()) as up, teacher() as teach:
    run(check, up, teach, answer_timeout_s=0.5)
  assert up.sent < 64 << 20


def test_a_header_that_is_no_text_is_not_handed_on():
  async def check(proxied):
    status, _, headers = await asked(proxied)
    named = {name.lower(): value for name, value in headers.items()}
    assert status == 429 and named["x-request-id"] == "r1"
    assert "retry-after" not in named

  answer = b"HTTP/1.1 429 No\r\nRetry-After: \x1b[2J\r\nx-request-id: r1\r\n"
  answer += b"Content-Length: 2\r\n\r\n{}"
  with Hostile(hostile_server.breaks(answer)) as up, teacher() as teach:
    run(check, up, teach)
