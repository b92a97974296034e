"""One plain HTTP request at a time, for health checks and weights."""

import json
import urllib.error
import urllib.request

from atlas_jax.serving.client import ServerDown


def ask(
  method: str,
  url: str,
  body=None,
  *,
  api_key: str | None,
  timeout_s: float,
) -> tuple[int, bytes]:
  """(status, content) of any answer, with a body sent as JSON.

  Raises:
    ServerDown: nothing answers.
  """
  headers = {"Content-Type": "application/json"}
  if api_key:
    headers["Authorization"] = f"Bearer {api_key}"
  request = urllib.request.Request(
    url,
    method=method,
    headers=headers,
    data=None if body is None else json.dumps(body).encode(),
  )
  try:
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
      return response.status, response.read()
  except urllib.error.HTTPError as error:
    return error.code, error.read()
  except OSError as error:
    raise ServerDown(f"{url} does not answer: {error}") from error
