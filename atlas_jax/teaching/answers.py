"""What a student answered, and whether it is right: one checker for all.

How the answer is found (the rule that fired is kept):
  1. private thinking is stripped; thinking that never ends has no answer;
  2. the last closed <solution> or <answer> block;
  3. the last \\boxed{...} with matching braces, or several that "or", "and" or
     a comma join, with what scales or denies it;
  4. what follows '####' on the last line, or before it if that is short (no
     heading);
  5. what follows the last 'answer is' or 'answer:', or a single line that
     begins with a choice ("D) 42 km"), yes or no;
  6. the last number, with what stands beside it where that changes it ("can't
     be 41", "3\\sqrt{2}").
Rules 3 to 6 read what follows the last "Wait, ..." or "No, ..." that states
another answer, or nothing.
A response cut at its length counts only by rule 2 (the answer was given
before the cut); otherwise its status is 'truncated'. Text that reports a
failure ("Error: 401") states no answer, whatever numbers stand in it.

How it is compared: exactly where that is certain (equality.py); else as a
formula (formulas.py); reasoning-gym problems by their task's scorer; where
config.data.verifier names a function, by what that says of the whole response
without its thinking (rule 'own'): a share of 1, right above one half.
An answer that hangs or breaks its comparison is wrong. Where the gold answer
does so too, or a function of the user's, there is no verdict ('no_verdict',
'verifier_timeout', 'error'): it is left out of every mean.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from atlas_jax.config import DataConfig
from atlas_jax.confined import Late, Unanswered
from atlas_jax.data.problems import Problem
from atlas_jax.teaching import equality, verify
from atlas_jax.teaching.equality import FRACTION, NUMBER
from atlas_jax.teaching.own import OwnFunctions
from atlas_jax.teaching.prompts import strip_thinking
from atlas_jax.teaching.verify import VerifierPool

_DATA = DataConfig()
_LONGEST_SPAN = 4096  # characters
_LONGEST_SHOWN = 200  # of a response without a span
# Braces that match, in one another at most so deep.
_INNER = ""
for _ in range(32):
  _INNER = rf"(?:[^{{}}\\]|\\.|\{{{_INNER}\}})*+"
_BOX = rf"(?s:\\f?box(?:ed)?\s*\{{({_INNER})\}})"
_BOXED = re.compile(_BOX)
_BOXES = re.compile(
  rf"(?:\b(?:not|\w+n['’]t) \$?|(?<![^\s$])-)?"
  rf"{_BOX}(?:\$?\s*(?:,|or|and)\s+\$?(?:[a-z] ?= ?)?{_BOX})*"
  rf"(?:\$?\s(?:or \$?\d+|(?:is|are) (?:wrong|incorrect)|{equality.SCALES}"
  r"|is(?: not|n['’]t) (?:right|correct|it|the answer))\b)?"
)
_RETRACTED = re.compile(
  r"(?im)(?:(?<=\n)|[.!?$]\s+)(?:but |oh,? )?(?:no|wait|actually|oops|sorry"
  r"|correction|scratch that|on second thought)\b(?=[,.:;!—-]|\s-)"
)
_FAILURE = re.compile(
  r"(?i)(?:(?:api |http )?\w*error|\w*exception|traceback|request timed out"
  r"|timeout)\b\s*(?:[:.!({\[]|after\b|\Z)"
)
_TAG = re.compile(r"(?si)<(solution|answer)>(?P<span>(?:(?!<\1>).)*?)</\1>")
# What takes an answer back states another, or nothing at all.
_STATED = re.compile(r"[\d\\=$]|\b[A-HJ]\b|^\W*$")
# On the last line, or above it where it is short and no heading.
_HASHES = re.compile(
  r"(?m)####(?P<span>(?:(?!####).)*\Z|(?<=^####)(?!.{76})(?!.*(?:####|:\s|:$))"
  r"\s*(?!\d+[.)] )(?:\(?[A-Z]\)?|(?i:yes|no|true|false)|(?:[a-z] = )?"
  r"\S*[\d\\]\S*(?: [^A-Z\s]\S*){0,2})[^\S\n]*$)"
)
_PHRASE = re.compile(
  r"(?im)\banswer(?:\s+is)?\s*(?:[:=]\s*|(?<=is)\s+)"
  r"(?P<span>\S.*?)(?=[.!?](?:\s|$)|$)"
)

# With a word of change and no more than these between, a number is denied.
_BETWEEN = "be|been|to|the|an?|it|as|exactly|just|really|of|that|say"
_BEFORE = re.compile(
  r"(?im)(?:(?<!\\)\b(?:times|(?:between|ranges? from) \S+ (?:and|to)"
  rf"|(?:not|never|doubt|false|\w+n['’]t)(?:\s(?:{_BETWEEN}|is|equals?))*"
  r"|(?!times|most|least|up.to|\w+imum.of|\w+ed.to|(?<=[\d,] )but|(?<=, )or)"
  rf"(?:{equality.CHANGING}))\s(?:(?:{_BETWEEN})\s)*"
  # No arrow, and no quote.
  r"|(?:(?<![a-z]{3})(?!^> |(?<=[-=>])>)[<>≤≥≠]|!=|[<>]=)\s?"
  r"|(?:[\w.)}^{\\]*(?:[\d)}]|\b[b-hj-z])(?: ?[+*×·/] ?| [-−–] )"
  r"|(?<!['’\w])[b-hj-z] ?)+"
  r"|(?:(?:[-−±]|\\pm) ?)?\S*(?:[_^]\{?|\d:|\}\{|√"
  r"|\\(?!to\b|implies|\w*arrow)[a-z]+ ?\{?))\Z"
)
# At most two words; some say nothing about the number.
_AFTER = re.compile(
  r"(?i)(?:(?!-\d|[*_`]+(?!\w)|\s?\\(?:end|right.(?!\^))|[ap]m\b"
  r"|(?!fold)[a-z]{4}|(?<!times) (?:more|fewer|over|under|above|between|from"
  r"|left|plus tax|half|quarters?|third|\w+th|[ap]\.m"
  rf"|(?:to|and)(?! (?:the|an?|half|{equality.COUNTS}|\w+ty)\b)"
  r"|[a-z]{3,}-(?!\w*th|hal|qua))\b)"
  r" ?(?:sq(?:uare|\.) )?(?:[^\s.,;:!?=<(|\[—]|\.(?=\d))+){0,2}"
)


@dataclass(frozen=True)
class Verdict:
  """The judgement of one response."""

  # correct, wrong, no_answer, truncated, no_verdict, verifier_timeout, error
  status: str
  answer: str | None
  rule: str
  share: float | None = None  # returned by a function of the user's

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


def extract(text: str) -> tuple[str | None, str]:
  """(the answer that a response states, if any; the rule that found it)."""
  text = strip_thinking(text)
  if text is None:
    return None, "unclosed_think"
  for rule, span in _spans(text.strip()):
    if span is not None:
      span = _unboxed(_last(_BOXES, span) or span).strip()
      stated = span and len(span) <= _LONGEST_SPAN and not _FAILURE.match(span)
      return (span if stated else None), rule
  return None, "none"


def _spans(text: str) -> Iterator[tuple[str, str | None]]:
  """(rule, the answer it finds or None), in the order of the module's list."""
  yield "tag", _last(_TAG, text)
  yield "failure_text", "" if _FAILURE.match(text) else None
  parts = reversed(_RETRACTED.split(text))
  text = next(filter(_STATED.search, parts), text)
  yield "boxed", _last(_BOXES, text)
  yield "hashes", _last(_HASHES, text)
  yield "phrase", _last(_PHRASE, text)
  if "\n" not in text and equality.choice(text)[0]:
    yield "phrase", text
  yield "last_number", _last_number(text)


def _last(pattern: re.Pattern, text: str) -> str | None:
  """The last match, or what its group `span` holds."""
  *_, match = (None, *pattern.finditer(text))
  return match and match.groupdict().get("span", match[0])


def _unboxed(text: str) -> str:
  """The text with each box's content in its place."""
  while (opened := _BOXED.sub(r"\1", text)) != text:
    text = opened
  return text


def _last_number(text: str) -> str | None:
  """The last number, with the words beside it unless it is the same alone."""
  text = FRACTION.sub(r" \1/\2", text.replace("−", "-").replace("{,}", ","))
  *_, found = (None, *NUMBER.finditer(text))
  if found is None:
    return None
  before = _BEFORE.search(text, max(0, found.start() - 60), found.start())
  after = _AFTER.match(text, found.end(), found.end() + 60)
  shown = text[before.start() if before else found.start() : found.end()]
  shown += after[0].replace("$", "")
  same = equality.exact_equal(found[0], shown)
  return found[0] if same else shown.strip(" $")


class AnswerChecker(contextlib.ExitStack):
  """Judges responses. Holds verifier processes: close it after use.

  Args:
    processes: verifiers of each kind that may run at one time.
    deadline_s: for one comparison.
    data: has the same of the user's own functions.
  """

  def __init__(
    self,
    *,
    processes: int = 2,
    deadline_s: float = 3.0,
    data: DataConfig = _DATA,
  ):
    super().__init__()
    pool = VerifierPool(processes=processes, deadline_s=deadline_s)
    self._pool = self.enter_context(pool)
    own = OwnFunctions(
      processes=data.own_processes, deadline_s=data.own_deadline_s
    )
    self._own = self.enter_context(own)
    self._threads = ThreadPoolExecutor(max(processes, data.own_processes))
    self.callback(self._threads.shutdown, cancel_futures=True)

  @property
  def failure(self) -> str | None:
    """The last error of a function of the user's, None before one."""
    return self._own.failure

  def check(self, problem: Problem, text: str, finish_reason: str) -> Verdict:
    """The verdict on a response; 'length' is the reason of one that was cut."""
    answer, rule = extract(text)
    if finish_reason == "length" and (rule != "tag" or answer is None):
      return Verdict("truncated", None, rule)
    said = (strip_thinking(text) or "").strip()
    is_own = ":" in problem.verifier and rule != "failure_text" and said
    if is_own:
      answer, rule = answer or said[:_LONGEST_SHOWN], "own"
    elif answer is None:
      return Verdict("no_answer", None, rule)
    try:
      if is_own:
        asked = (problem.question, problem.answer, said)
        share = self._own.call(problem.verifier, *asked, share=True)
      else:
        share = self._right(problem, answer)
    except Unanswered as error:
      late = isinstance(error, Late)
      return Verdict("verifier_timeout" if late else "error", answer, rule)
    if share is None:
      return Verdict("no_verdict", answer, rule)
    status = "correct" if share > 0.5 else "wrong"
    return Verdict(status, answer, rule, share if is_own else None)

  def check_many(
    self, items: Iterable[tuple[Problem, str, str]]
  ) -> list[Verdict]:
    """check() for many, several at a time; the order is kept."""
    return list(self._threads.map(lambda item: self.check(*item), items))

  def own_many(self, target: str, items: Sequence) -> list[float | None]:
    """The value of a term of the reward for each item; None where it fails."""

    def call(item) -> float | None:
      with contextlib.suppress(Unanswered):
        return self._own.call(target, item, share=False)

    return list(self._threads.map(call, items))

  def _right(self, problem: Problem, answer: str) -> bool:
    gold, meta = problem.answer, problem.meta
    if problem.verifier == "answer":
      decided, harmless = equality.exact_equal(gold, answer), "1"
      asked = (verify.MATH, gold)
    elif problem.verifier == "reasoning_gym":
      decided, harmless = answer == gold or None, gold
      asked = (verify.REASONING_GYM, meta["task"], meta["entry"])
    else:
      raise ValueError(
        f"problem {problem.id} names the verifier {problem.verifier!r};"
        " valid: answer, reasoning_gym"
      )
    if decided is not None:
      return decided
    try:
      return self._pool.ask(*asked, answer)
    except Unanswered:
      # Raises where the gold answer or the machine is at fault.
      self._pool.ask(*asked, harmless)
      return False
