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
by their task's scorer; where config.data.verifier names a function, by what
that says of the whole response without its thinking (rule 'own'): a share of
1, right above one half.
An answer that hangs or breaks its comparison is wrong. Statuses 'no_verdict',
'verifier_timeout' and 'error' are no verdict (the gold answer does so too, or
the function is the user's): they are neither right nor wrong and are left out
of every mean.
"""

import functools
import logging
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from atlas_jax.config import DataConfig
from atlas_jax.confined import Late, NoAnswer
from atlas_jax.data.problems import Problem
from atlas_jax.teaching import equality
from atlas_jax.teaching.prompts import strip_thinking
from atlas_jax.teaching.verify import NotStarted, VerifierPool

_DATA = DataConfig()
_LONGEST_SPAN = 4096  # characters
_LONGEST_SHOWN = 200  # of a response without a span
_DEEPEST_NESTING = 32
_TAGGED = re.compile(r"<(solution|answer)>((?:(?!<\1>).)*?)</\1>", re.DOTALL)
_BOXED = re.compile(r"\\f?box(?:ed)?\s*\{")
_BRACE = re.compile(r"\\[{}]|[{}]")
_PHRASE = re.compile(
  r"\banswer(?:\s+is)?\s*(?:[:=]\s*|(?<=is)\s+)(?P<span>\S[^\n]*)",
  re.IGNORECASE,
)
_SHORT = re.compile(
  r"(?!.{80})####\s*((?!.*:(?:\s|$))(?!\d+[.)]\s)(?:\(?[A-Z]\)?|(?i:yes|no|true|false)"
  r"|(?:[a-z] = )?\S*[\d\\]\S*(?: [^A-Z\s]\S*){0,2}))"
)
_FAILURE = re.compile(
  r"\s*(?:\w*error|\w*exception|traceback|request timed out|timeout)\b"
  r"\s*(?:[:.!({\[]|\Z)",
  re.IGNORECASE,
)


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
  """The span that states an answer (None: there is none) and why it."""

  answer: str | None
  rule: str


@dataclass(frozen=True)
class Verdict:
  """What became of one response."""

  # correct, wrong, no_answer, truncated, no_verdict, verifier_timeout, error
  status: str
  answer: str | None
  rule: str
  share: float | None = None  # what a function of the user's says

  @property
  def score(self) -> float | None:
    """1 right, 0 not, or between; None where nothing could be decided."""
    if self.status in ("no_verdict", "verifier_timeout", "error"):
      return None
    return float(self.status == "correct") if self.share is None else self.share

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
      stated = span and len(span) <= _LONGEST_SPAN and _failure(span) is None
      return Extraction(span if stated else None, rule)
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
    for brace in _BRACE.finditer(text, opening.end()):
      depth += {"{": 1, "}": -1}.get(brace[0], 0)
      if depth > _DEEPEST_NESTING:
        return None
      if depth == 0:
        return text[opening.end() : brace.start()]
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
  line = text.strip()
  return line if "\n" not in line and equality.choice(line)[0] else None


def _last_number(text: str) -> str | None:
  found = [match[0] for match in equality.NUMBER.finditer(text)]
  return found[-1] if found else None


def _failure(text: str) -> str | None:
  return "" if _FAILURE.match(text + " ") else None


_RULES = (
  ("tag", _tag),
  ("failure_text", _failure),
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
    data: has the same of the user's own functions.

  Attributes:
    failure: what became of the last of the user's functions that failed.
  """

  def __init__(
    self,
    *,
    processes: int = 2,
    deadline_s: float = 3.0,
    data: DataConfig = _DATA,
  ):
    self.failure: str | None = None
    self._pool = VerifierPool(processes=processes, deadline_s=deadline_s)
    self._own = VerifierPool(
      processes=data.own_processes, deadline_s=data.own_deadline_s
    )
    self._threads = ThreadPoolExecutor(max(processes, data.own_processes))

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()

  def close(self) -> None:
    self._threads.shutdown(wait=True, cancel_futures=True)
    self._pool.close()
    self._own.close()

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
    said = None if found.rule == "failure_text" else strip_thinking(text)
    if ":" in problem.verifier and said and said.strip():
      return self._own_verdict(problem, said.strip(), found.answer)
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

  def own_many(self, target: str, items: Sequence) -> list[float | None]:
    """What a term of the reward says of each item; None: nothing."""

    def call(item) -> float | None:
      try:
        return self._own.own(target, item, share=False)
      except (NoAnswer, NotStarted) as error:
        self._failed(error)
        return None

    return list(self._threads.map(call, items))

  def _own_verdict(self, problem: Problem, said: str, answer) -> Verdict:
    asked = (problem.verifier, problem.question, problem.answer, said)
    shown = answer or said[:_LONGEST_SHOWN]
    try:
      share = self._own.own(*asked, share=True)
    except (NoAnswer, NotStarted) as error:
      self._failed(error)
      late = isinstance(error, Late)
      return Verdict("verifier_timeout" if late else "error", shown, "own")
    if share is None:
      return Verdict("no_verdict", shown, "own")
    right = share > 0.5
    return Verdict("correct" if right else "wrong", shown, "own", share)

  def _failed(self, error: Exception) -> None:
    if self.failure is None:
      log.warning("no verdict, the first time: %s", error)
    self.failure = str(error)

  def _right(self, problem: Problem, answer: str) -> bool:
    if problem.verifier == "reasoning_gym":
      gold, meta = problem.answer, problem.meta
      decided, harmless = answer == gold or None, gold
      compare = functools.partial(
        self._pool.reasoning_gym, meta["task"], meta["entry"]
      )
    elif problem.verifier == "answer":
      decided = equality.exact_equal(problem.answer, answer)
      gold, answer = map(equality.formula, (problem.answer, answer))
      compare = functools.partial(self._pool.math_equal, gold)
      harmless = "1"
    else:
      raise ValueError(
        f"problem {problem.id} names the verifier {problem.verifier!r};"
        " valid: answer, reasoning_gym"
      )
    if decided is not None:
      return decided
    try:
      return compare(answer)
    except NoAnswer:
      compare(harmless)  # raises where the gold or the machine is at fault
      return False
