"""A teacher and a student server over HTTP that draw words at random.

They speak what a run asks of vLLM. An answer follows from the request and from
the version of the weights alone, so two runs of a config get the same answers.
"""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = ("carry", "the", "one", "add", "first", "then", "digits", "again")


class _Handler(BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"

  def log_message(self, *args):
    pass

  def _answer(self, value, status=200):
    content = json.dumps(value).encode()
    self.send_response(status)
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def _is_silent(self):
    """Whether this request gets no answer; weights are lost with it."""
    state = self.server.state
    state["asked"] += 1
    if state["asked"] not in state["silent"]:
      return False
    state["version"] = "default"
    self.close_connection = True
    return True

  def do_GET(self):
    state = self.server.state
    if self._is_silent():
      return
    if self.path == "/health":
      self._answer({})
    elif self.path == "/inference/v1/generate":
      self._answer({}, 405)
    elif self.path == "/v1/atlas/weights" and state["takes_weights"]:
      self._answer({k: state[k] for k in ("version", "checksums")})
    elif self.path.startswith("/v1/atlas/nonce/") and state["takes_weights"]:
      self._answer({"digest": None})  # so files come by HTTP
    else:
      self._answer({}, 404)

  def do_PUT(self):
    """A file of weights, which nobody reads."""
    self.rfile.read(int(self.headers["Content-Length"]))
    self._answer({"path": "received/" + self.path.rpartition("/")[2]})

  def do_POST(self):
    state = self.server.state
    size = int(self.headers["Content-Length"])
    body = json.loads(self.rfile.read(size))
    if self._is_silent():
      return
    if self.path == "/v1/atlas/update":
      state["version"], state["checksums"] = body["version"], body["checksums"]
      state["updates"].append(int(body["version"]))
      state["sums"][state["updates"][-1]] = body["checksums"]
      times = {"seconds_check": 0.0, "seconds_apply": 0.0}
      self._answer({"version": body["version"], **times})
      return
    state["requests"] += 1
    params, ids = body["sampling_params"], body["token_ids"]
    if "prompt_logprobs" in params:
      rows = [{str(t): {"logprob": -1.0}} for t in ids]
      self._answer({"prompt_logprobs": rows})
      return
    count = params["n"]
    choices = [
      self._choice(i, params, ids, state["version"]) for i in range(count)
    ]
    self._answer({"choices": choices})

  def _choice(self, index, params, ids, version):
    seed = f"{params['seed'] + index} {ids} {version}"
    digest = hashlib.sha256(seed.encode()).digest()
    text = " ".join(WORDS[d % 8] for d in digest[: 1 + digest[0] % 4])
    if self.server.state["takes_weights"]:
      text = f"<teaching>{text}</teaching>"
    tokens = self.server.state["encode"](text)[: params["max_tokens"]]
    count = len(tokens)
    content = [{"logprob": -1.0 - digest[i % 32] / 256} for i in range(count)]
    return {
      "index": index,
      "token_ids": tokens,
      "logprobs": {"content": content},
      "finish_reason": "stop",
      "weight_versions": [{"version": version, "start": 0, "end": count}],
    }


@contextlib.contextmanager
def serve(takes_weights: bool, encode, silent=()):
  """(URL, state) of one server, which leaves `silent` requests unanswered.

  The state counts requests, lists updates, and has the checksums of each.
  """
  server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
  server.daemon_threads = True
  server.state = {
    "takes_weights": takes_weights,
    "encode": encode,
    "version": "default",
    "checksums": {},
    "updates": [],
    "sums": {},
    "requests": 0,
    "asked": 0,
    "silent": silent,
  }
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield f"http://127.0.0.1:{server.server_port}", server.state
  finally:
    server.shutdown()
    server.server_close()
