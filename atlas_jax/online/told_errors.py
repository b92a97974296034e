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

from atlas_jax.online.retrying import CallFailed, may_pass

_FLAG = re.compile(
  r"error\w*|\w*(?:error|exception)|fail(?:ed|ure)?|cancell?ed|timed?_?out"
  r"|overloaded",
  re.IGNORECASE,
)
_ERRORS = ("error", "errors", "errormessage", "detail")
_STATUSES = ("status", "status_code", "statuscode")
# An object of these alone holds no answer.
_BESIDE = {
  *(*_ERRORS, *_STATUSES, "code", "message", "msg", "type", "object", "title"),
  *("param", "path", "instance", "timestamp", "id", "request_id", "requestid"),
  *("errortype", "details", "success", "ok", "trace_id"),
}
_NOTHING = ("", "none", "null", "no", "false", "ok", "success")
_LASTING = re.compile("invalid_request|bad_?request|validation_?error", re.I)
_LONGEST = 1 << 16  # characters of a text that is read as JSON
_STATED = re.compile(
  r"</(?:solution|answer|teaching)>|\\boxed|####|```|\banswer(?: is|\s*[:=])",
  re.IGNORECASE,
)
_KNOWN = (
  r"(?:internal\ server\ error|bad\ gateway|gateway\ time-?out|unauthorized"
  r"|service\ (?:temporarily\ )?unavailable|too\ many\ requests|overloaded"
  r"|payment\ required|rate\ limit\ (?:exceeded|reached)|request\ (?:failed|timed\ out)|connect(?:ion)?"
  r"\ (?:error|refused|reset|timed\ out|E[A-Z]{5,})|no\ healthy\ upstream"
  r"|upstream\ connect\ error|(?:invalid|missing)\ api\ key|credit\ balance"
  r"|insufficient\ (?:quota|credits))\b"
)
_BEGINS = re.compile(
  rf"""{_KNOWN} | api\ error\s*[:(\d] | fatal(?:\ error)?: | curl:\ \(\d
  | error:\s*(?:{_KNOWN} | \{{ | [^\d\n]*\s*\Z)
  | traceback\ \(most\ recent | <!doctype\ html | <html\b
  | \w+\.[\w.]*(?:error|exception|exhausted|exceeded)\b\s*[:(]
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
_PHRASES = {s.value: s.phrase.lower() for s in http.HTTPStatus} | {
  529: "overloaded"
}


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
  keys = {str(key).lower(): item for key, item in value.items()}
  error = next((keys[k] for k in _ERRORS if _is_said(keys.get(k))), None)
  # Some wrap the text of an error: {"is_error": true, "result": "..."}.
  inner = [of_text(v) for v in keys.values() if isinstance(v, str)]
  inner = next(filter(None, inner), None)
  if not _flagged(keys) and (answered or error is None):
    coded = _code(keys) or re.search("[a-z]{4}", str(keys.get("code")), re.I)
    worded = "code" in keys and coded and {"message", "msg"} & keys.keys()
    if answered or not keys.keys() <= _BESIDE or not (worded or inner):
      return None
  said = value if error is None else error
  text = said if isinstance(said, str) else json.dumps(said)
  code = _code(keys) or (_code(error) if isinstance(error, dict) else None)
  return _failure(f"{how} with an error: {text}", code or inner and inner.code)


def of_text(text: str) -> CallFailed | None:
  """The failure that an answer's text tells of; None: none that is certain."""
  text = text.strip()
  # Of events, and of JSON by lines, the first or the last one.
  lines = text.splitlines()
  for part in (text, *lines[:2], *lines[-1:]) if len(text) < _LONGEST else ():
    part = part.removeprefix("data:").strip()
    if part.startswith(("{", "[")):
      try:
        value = json.loads(part)
      except (ValueError, RecursionError):
        continue
      names = value if isinstance(value, dict) else ()
      answered = not {str(name).lower() for name in names} <= _BESIDE
      if (failed := of_json(value, "a text", answered)) is not None:
        return failed
  if _STATED.search(text):
    return None
  code = None
  if (found := _CODE.match(text)) is not None:
    code, rest = int(found["code"]), found["rest"].lower()
    phrase = _PHRASES.get(code)
    named = (found["named"] or "").lower()
    plain = named and (named.startswith("api") or not rest[:1].isalnum())
    if phrase is None or not (plain or rest.startswith(phrase)):
      code = None
  if code or _BEGINS.match(text):
    return _failure(f"the answer is an error: {text[:_LONGEST]}", code)
  return None


def _failure(text: str, code: int | None) -> CallFailed:
  again = may_pass(code) if code else not _LASTING.search(text)
  return CallFailed(text, code=code, again=again, billed=code is None)


def _is_said(value) -> bool:
  if isinstance(value, str):
    return value.strip().lower() not in _NOTHING
  if isinstance(value, dict | list):
    return any(value.values() if isinstance(value, dict) else value)
  return value is True or _is_code(value)


def _is_code(value) -> bool:
  text = str(value)
  return len(text) == 3 and text.isdigit() and text[0] in "45"


def _code(keys: dict) -> int | None:
  found = (keys.get(k) for k in (*_STATUSES, "code"))
  return next((int(x) for x in found if _is_code(x)), None)


def _flagged(keys: dict) -> bool:
  said = {k: str(keys.get(k)).strip().lower() for k in (*keys, "subtype")}
  return (
    any(said.get(k) == "true" for k in ("is_error", "iserror", "has_error"))
    or any(said.get(k) == "false" for k in ("success", "ok", "succeeded"))
    or any(_is_code(keys.get(k)) for k in _STATUSES)
    or any(
      _FLAG.fullmatch(said.get(k, ""))
      for k in ("status", "state", "type", "object", "subtype")
    )
  )
