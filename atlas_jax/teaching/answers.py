"""What a student answered, and whether it is right: one checker for all.

How the answer is found (the rule that fired is kept):
  1. private thinking is stripped; thinking that never ends has no answer;
  2. the last closed <solution> or <answer> block;
  3. the last \\boxed{...} with matching braces;
  4. what follows '####' on the last line, or before it if that is short (no
     heading);
  5. what follows the last 'answer is' or 'answer:', or a single line that
     begins with a choice ("D) 42 km"), yes or no;
  6. the last number.
A response cut at its length counts only by rule 2 (the answer was given
before the cut); otherwise its status is 'truncated'. Text that reports a
failure ("Error: 401") states no answer, whatever numbers stand in it.

How it is compared: exactly where that is certain (equality.py); else as a
formula, by math-verify under a deadline (formulas.py); reasoning-gym problems
by their task's scorer.
Statuses 'verifier_timeout' and 'error' are no verdict: they are neither right
nor wrong and are left out of every mean.
"""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from atlas_jax.confined import Late, NoAnswer
from atlas_jax.data.problems import Problem
from atlas_jax.teaching import equality
from atlas_jax.teaching.prompts import strip_thinking
from atlas_jax.teaching.verify import NotStarted, VerifierPool

_LONGEST_SPAN = 4096  # characters
_DEEPEST_NESTING = 32
_TAGGED = re.compile(r"<(solution|answer)>((?:(?!<\1>).)*?)</\1>", re.DOTALL)
_BOXED = re.compile(r"\\f?box(?:ed)?\s*\{")
_PHRASE = re.compile(
  r"\banswer(?:\s+is)?\s*(?:[:=]\s*|(?<=is)\s+)(?P<span>\S[^\n]*)",
  re.IGNORECASE,
)
_SHORT = re.compile(
  r"(?!.{80})####\s*((?!.*:(?:\s|$))(?!\d+[.)]\s)(?:\(?[A-Z]\)?|(?i:yes|no|true|false)"
  r"|(?:[a-z] = )?\S*[\d\\]\S*(?: [^A-Z\s]\S*){0,2}))"
)
_FIRST = re.compile(
  r"\W*(?:\([A-Z]\)|[A-Z][).:]|(?i:option [a-z]\b"
  r"|(?:yes|no|true|false)(?:[,.:;]|\s$)))"
)
_LAST_NUMBER = re.compile(
  r"(?<![\w.])-?[$€£]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.?[0-9]+)"
  r"(?:\s*/\s*[0-9]+)?\s?%?(?!\w)"
)
_FAILURE = re.compile(
  r"\s*(?:\w*error|\w*exception|traceback|request timed out|timeout)\b\W",
  re.IGNORECASE,
)


@dataclass(frozen=True)
class Extraction:
  """The span that states an answer (None: there is none) and why it."""

  answer: str | None
  rule: str


@dataclass(frozen=True)
class Verdict:
  """What became of one response."""

  # correct, wrong, no_answer, truncated, verifier_timeout, error
  status: str
  answer: str | None
  rule: str

  @property
  def score(self) -> float | None:
    """1 right, 0 not; None where nothing could be decided."""
    if self.status in ("verifier_timeout", "error"):
      return None
    return float(self.status == "correct")

  @property
  def completed(self) -> bool:
    """An answer was given, right or not."""
    return self.status not in ("no_answer", "truncated")


def extract(text: str) -> Extraction:
  """Finds the answer in a response; see the rules of the module."""
  text = strip_thinking(text)
  if text is None:
    return Extraction(None, "unclosed_think")
  for rule, find in _RULES:
    span = find(text)
    if span is not None:
      span = span.strip()
      if not span or len(span) > _LONGEST_SPAN or _FAILURE.match(span + " "):
        return Extraction(None, rule)
      return Extraction(span, rule)
    if rule == "tag" and _FAILURE.match(text):
      return Extraction(None, "failure_text")
  return Extraction(None, "none")


def _tag(text: str) -> str | None:
  blocks = _TAGGED.findall(text)
  if not blocks:
    return None
  inner = _boxed(blocks[-1][1])
  return blocks[-1][1] if inner is None else inner


def _boxed(text: str) -> str | None:
  for opening in reversed(list(_BOXED.finditer(text))):
    depth = 1
    for end in range(opening.end(), len(text)):
      if text[end - 1] != "\\":
        depth += {"{": 1, "}": -1}.get(text[end], 0)
      if depth > _DEEPEST_NESTING:
        return None
      if depth == 0:
        return text[opening.end() : end]
  return None


def _hashes(text: str) -> str | None:
  *above, last = text.strip().split("\n")
  _, marker, after = last.rpartition("####")
  if marker:
    return after
  short = [m[1] for m in map(_SHORT.fullmatch, map(str.strip, above)) if m]
  return short[-1] if short else None


def _phrase(text: str) -> str | None:
  phrases = list(_PHRASE.finditer(text))
  if phrases:
    return re.split(r"[.!?](?=\s|$)", phrases[-1]["span"], maxsplit=1)[0]
  line = text.strip() + " "
  return line if _FIRST.match(line) and "\n" not in line else None


def _last_number(text: str) -> str | None:
  found = _LAST_NUMBER.findall(text)
  return found[-1] if found else None


_RULES = (
  ("tag", _tag),
  ("boxed", _boxed),
  ("hashes", _hashes),
  ("phrase", _phrase),
  ("last_number", _last_number),
)


class AnswerChecker:
  """Judges responses. Holds verifier processes: use it as a context.

  Args:
    processes: verifiers of each kind that may run at one time.
    deadline_s: for one comparison.
  """

  def __init__(self, *, processes: int = 2, deadline_s: float = 3.0):
    self._pool = VerifierPool(processes=processes, deadline_s=deadline_s)
    self._threads = ThreadPoolExecutor(processes)

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()

  def close(self) -> None:
    self._threads.shutdown(wait=True, cancel_futures=True)
    self._pool.close()

  def check(self, problem: Problem, text: str, finish_reason: str) -> Verdict:
    """The verdict on one response.

    Args:
      problem: holds the gold answer and says how to compare.
      text: the response.
      finish_reason: 'stop', or 'length' for one that was cut.
    """
    found = extract(text)
    if finish_reason == "length" and (
      found.rule != "tag" or found.answer is None
    ):
      return Verdict("truncated", None, found.rule)
    if found.answer is None:
      return Verdict("no_answer", None, found.rule)
    try:
      right = self._right(problem, found.answer)
    except Late:
      return Verdict("verifier_timeout", found.answer, found.rule)
    except (NoAnswer, NotStarted):
      return Verdict("error", found.answer, found.rule)
    return Verdict("correct" if right else "wrong", found.answer, found.rule)

  def check_many(
    self, items: Iterable[tuple[Problem, str, str]]
  ) -> list[Verdict]:
    """check() for many, several at a time; the order is kept."""
    return list(self._threads.map(lambda item: self.check(*item), items))

  def _right(self, problem: Problem, answer: str) -> bool:
    if problem.verifier == "reasoning_gym":
      if answer == problem.answer:
        return True
      meta = problem.meta
      return self._pool.reasoning_gym(meta["task"], meta["entry"], answer)
    if problem.verifier != "answer":
      raise ValueError(
        f"problem {problem.id} names the verifier {problem.verifier!r};"
        " valid: answer, reasoning_gym"
      )
    decided = equality.exact_equal(problem.answer, answer)
    if decided is not None:
      return decided
    texts = map(equality.formula, (problem.answer, answer))
    return self._pool.math_equal(*texts)
