"""Replies that tell of an error, whatever their status says.

Only what is certain is taken for one:
  1. a JSON object that says so by a flag (is_error, success, status, type);
  2. a JSON object with an error, or a detail, and no answer beside it;
  3. a text that states no answer and is a page of HTML, or begins as APIs,
     gateways and clients begin their errors.
Any other text may be an honest answer that speaks of errors; an agent with
words of its own for a failure has failure_path and failure_regex.
"""

import http
import json
import re
from collections.abc import Iterator

from atlas_jax.online.calls.calls import CallFailed
from atlas_jax.retries import may_pass

# Keys are compared in lower case and without underscores.
_ERRORS = ("error", "errors", "err", "errormessage", "errormsg", "detail")
_STATUSES = ("status", "statuscode")
_FAILS = (
  r"error(?:ed|_max\w*|_during\w*)?|\w*_?(?:error|exception)|fail(?:ed|ure)?"
  r"|cancell?ed|timed?_?out|overloaded"
)
# The words, in lower case, by which a flag says that it is an error.
_FLAGS = {
  **dict.fromkeys(("iserror", "haserror"), "true"),
  **dict.fromkeys(("success", "ok", "succeeded"), "false"),
  **dict.fromkeys(("state", "type", "object", "subtype"), _FAILS),
  **{"status": rf"[45]\d\d|{_FAILS}", "statuscode": r"[45]\d\d"},
}
# What an object that holds no answer is made of.
_BESIDE = {
  *(*_ERRORS, *_STATUSES, "errorcode", "errortype", "code", "message", "msg"),
  *("type", "object", "title", "details", "reason", "param", "path"),
  *("instance", "timestamp", "id", "requestid", "traceid", "success", "ok"),
  "jsonrpc",
}
# Most replies are chat completions, or choices of one, and pass at once.
_COMPLETION = {"id", "created", "model", "choices", "usage", "service_tier"}
_COMPLETION |= {"index", "message", "delta", "logprobs", "finish_reason"}
_COMPLETION |= {"object", "system_fingerprint"}
_OBJECTS = (None, "chat.completion", "chat.completion.chunk")
_LASTING = re.compile("invalid_request|bad_?request|validation_?error", re.I)
_LONGEST = 1 << 16  # characters of a text that is read as JSON
_STATED = re.compile(
  r"</(?:solution|answer|teaching)>|\\boxed|####|```|\banswer(?: is|\s*[:=])",
  re.IGNORECASE,
)
# Nothing that has to do with numbers may follow these: 12 unauthorized entries.
_SENTENCE = r"""(?:(?:internal\ server|connection|execution|network)\ error
  | bad\ gateway | gateway\ time-?out | service\ (?:temporarily\ )?unavailable
  | too\ many\ requests | unauthorized | payment\ required
  | rate\ limit\ exceeded
  | (?:invalid|missing)\ api\ key | insufficient\ (?:quota|credits)
  | fetch\ failed) \s* (?:\Z | [.,;(|·-] | :\s*[a-z{])"""
_KNOWN = rf"""(?:{_SENTENCE} | rate\ limit\ (?:exceeded|reached)\ for
  | request\ (?:failed|timed\ out) | connect(?:ion)?\ (?:refused|reset|econn)
  | failed\ to\ (?:fetch|connect) | upstream\ connect\ error
  | no\ healthy\ upstream | credit\ balance\ is | claude\ ai\ usage\ limit
  | an?\ (?:\w+\ )?error\ (?:has\ )?occurred)"""
_BEGINS = re.compile(
  rf"""{_KNOWN} | api\ error\s*[:(\d] | fatal(?:\ error)?:\s*[a-z] | curl:\ \(
  | error:(?!\s*(?:none|zero|no)\b)\s*(?:{_KNOWN} | \{{ | [^\d\n]*\s*\Z)
  | \[error\] | traceback\ \(most\ recent | <!doctype\ html | <html\b | <\?xml
  | \w+\.[\w.]*(?:error|exception|exhausted|exceeded|timeout)\b\s*[:(]
  | (?:api\w*|authentication|ratelimit|internalserver|serviceunavailable|timeout
    |badrequest|permissiondenied|notfound|connect\w*|http|remote\w*|read\w*)
    (?:error|exception)\b\s*[:(]""",
  re.IGNORECASE | re.VERBOSE,
)
_CODE = re.compile(
  r"(?P<named>[a-z]*\s?error(?:\s+code)?[\s:(-]+|http(?:/[\d.]+)?\s+)?"
  r"(?P<code>[45]\d\d)\b\s*(?P<rest>[^\n]*)",
  re.IGNORECASE,
)
_PHRASES = {s.value: s.phrase.lower() for s in http.HTTPStatus} | {529: "over"}


def of_json(value, how: str, answered: bool = False) -> CallFailed | None:
  """The failure that a JSON reply tells of; None: none that is certain.

  Args:
    value: the whole reply.
    how: it came, for the text of the failure: HTTP 200.
    answered: an answer stands where it is looked for.
  """
  if isinstance(value, list) and len(value) == 1:
    (value,) = value
  if not isinstance(value, dict):
    return None
  of_chat = "choices" in value or "index" in value
  of_chat = of_chat and value.get("object") in _OBJECTS
  if of_chat and value.keys() <= _COMPLETION:
    return None
  keys = {_plain(key): item for key, item in value.items()}
  error = next(filter(_is_said, map(keys.get, _ERRORS)), None)
  flagged = _flagged(keys)
  if not flagged and (answered or (error is None and keys.keys() - _BESIDE)):
    return None
  # Some wrap the text of an error: {"is_error": true, "result": "..."}.
  inner = [of_text(v) for v in keys.values() if isinstance(v, str)]
  inner = next(filter(None, inner), None)
  code = _code(keys) or (_code(error) if isinstance(error, dict) else None)
  if not flagged and error is None:
    named = code or re.search("[a-z]{4}", str(keys.get("code")), re.I)
    worded = "code" in keys and named and {"message", "msg"} & keys.keys()
    if not (worded or inner):
      return None
  said = value if error is None else error
  text = said if isinstance(said, str) else json.dumps(said)
  code = code or (inner.code if inner else None)
  return _failure(f"{how} with an error: {text}", code)


def of_text(text: str) -> CallFailed | None:
  """The failure that an answer's text tells of; None: none that is certain."""
  text = text.strip()
  for part in _jsons_in(text) if "{" in text else ():
    try:
      value = json.loads(part)
    except (ValueError, RecursionError):
      continue
    items = value.items() if isinstance(value, dict) else ()
    answered = any(item and _plain(key) not in _BESIDE for key, item in items)
    if (failed := of_json(value, "a text", answered)) is not None:
      return failed
  found, code = _CODE.match(text), None
  if found is not None and int(found["code"]) in _PHRASES:
    named, rest = (found["named"] or "").lower(), found["rest"].lower()
    plain = named and (named.startswith("api") or not rest[:1].isalnum())
    if plain or rest.startswith(_PHRASES[int(found["code"])]):
      code = int(found["code"])
  # The search for an answer reads all of the text, so it comes last.
  if not (code or _BEGINS.match(text)) or _STATED.search(text):
    return None
  return _failure(f"the answer is an error: {text[:_LONGEST]}", code)


def _jsons_in(text: str) -> Iterator[str]:
  """What may be JSON: a text, and its first and last lines, as of events."""
  if len(text) < _LONGEST:
    lines = text.splitlines()
    for part in (text, *lines[:2], *lines[-1:]):
      part = part.removeprefix("data:").strip()
      if part.startswith(("{", "[")):
        yield part


def _failure(text: str, code: int | None) -> CallFailed:
  again = may_pass(code) if code else not _LASTING.search(text)
  return CallFailed(text, code=code, again=again, billed=code is None)


def _plain(key) -> str:
  return str(key).lower().replace("_", "")


def _is_said(value) -> bool:
  if isinstance(value, str):  # a number is what it is about, or a code
    text = value.strip().lower()
    nothing = text in ("", "none", "null", "no", "false", "ok", "success")
    return not nothing and text[0] not in "0123456789-+±."
  if isinstance(value, dict | list):
    return any(value.values() if isinstance(value, dict) else value)
  return value is True or _is_code(value)


def _is_code(value) -> bool:
  return re.fullmatch(r"[45]\d\d", str(value)) is not None


def _code(keys: dict) -> int | None:
  found = (keys.get(k) for k in (*_STATUSES, "status_code", "code"))
  return next((int(x) for x in found if _is_code(x)), None)


def _flagged(keys: dict) -> bool:
  found = ((_FLAGS[key], keys[key]) for key in keys.keys() & _FLAGS.keys())
  return any(
    isinstance(said, str | int) and re.fullmatch(words, str(said).lower())
    for words, said in found
  )
