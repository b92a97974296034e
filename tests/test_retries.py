"""What is sent again, and when."""

import datetime

import aiohttp
import pytest

from atlas_jax import retries
from atlas_jax.serving import http


@pytest.mark.parametrize(
  ("status", "passes"),
  [
    *((code, True) for code in (408, 409, 425, 429, 500, 502, 503, 529)),
    *((code, False) for code in (302, 400, 401, 403, 404, 413, 422)),
  ],
)
def test_statuses_that_may_pass(status, passes):
  assert retries.may_pass(status) is passes


def test_errors_that_may_pass():
  for error in (
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientPayloadError(),
    http.Broken("cut"),
    ConnectionResetError(),
    TimeoutError(),
  ):
    assert retries.may_pass(error)
  for error in (
    http.Redirected("http://a", 302, "http://b", {}),
    http.TooLarge(7),
    aiohttp.InvalidURL("x"),
    TypeError("ours"),
  ):
    assert not retries.may_pass(error)


def test_retry_after_in_seconds_and_as_a_date():
  now = datetime.datetime(2026, 11, 24, 12, 0, 0, tzinfo=datetime.UTC)

  def after(said):
    return retries.retry_after({"RETRY-after": said}, now)

  assert after("7") == 7.0
  assert after("0.5") == 0.5
  assert after("Tue, 24 Nov 2026 12:00:30 GMT") == 30.0
  assert after("Tue, 24 Nov 2026 11:00:00 GMT") == 0.0
  assert after("86400") == 120.0  # bounded
  beyond = "Wed, 21 Oct 2015 07:28:00 +99999999999999"
  for nonsense in ("soon", "nan", "", "²", beyond):
    assert after(nonsense) is None
  assert retries.retry_after({}) is None


@pytest.mark.parametrize(
  ("headers", "body", "seconds"),
  [
    ({"Retry-After-Ms": "1500"}, "", 1.5),
    ({"retry-after-ms": "1500", "retry-after": "2"}, "", 1.5),
    ({"retry-after-ms": "soon", "retry-after": "2"}, "", 2.0),
    ({"retry-after-ms": "nan"}, "", None),
    ({"retry-after-ms": "9000000"}, "", 120.0),
    ({}, '{"retryDelay": "34.4s"}', 34.4),
    ({}, '{"retryDelay":"7s"}', 7.0),
    # In a text that quotes the body.
    ({}, r"b'{\"retryDelay\": \"7s\"}'", 7.0),
    ({"retry-after": "2"}, '{"retryDelay": "7s"}', 2.0),
    ({}, '{"retryDelay": "soon"}', None),
    ({}, "a retryDelay of 7s", None),
    ({}, '{"delay": "7s"}', None),
  ],
)
def test_other_ways_to_ask_for_a_wait(headers, body, seconds):
  assert retries.retry_after(headers, body=body) == seconds


def test_waits_double_and_their_jitter_is_a_function_of_the_request():
  waits = [retries.pause_s("key", n, None) for n in range(12)]
  assert waits == [retries.pause_s("key", n, None) for n in range(12)]
  for n, wait in enumerate(waits):
    full = min(0.5 * 2**n, 30.0)
    assert full / 2 <= wait <= full
  assert len({retries.pause_s(f"key {n}", 0, None) for n in range(20)}) == 20


def test_a_retry_after_is_waited_for_and_its_herd_spread():
  waits = [retries.pause_s(f"key {n}", 5, 7.0) for n in range(20)]
  assert all(7.0 <= wait <= 7.1 for wait in waits) and len({*waits}) == 20
