"""The built-in task: a tiny student that can be taught, and needs it.

Questions are arithmetic with two-digit numbers, of three kinds. The student
is a small model trained on the dialogues written here, and makes systematic
slips:

  addition      36+46     it forgets the carry
  subtraction   62-37     it takes the smaller from the larger digit
  chain         47-3+2    it does 3+2 first

It does not always slip. A trait of the question decides (a first number below
`KNOWS_BELOW` is familiar ground), and a sum without a carry comes out right
anyway. Its outline, asked for by the probe, says what it is about to do.

With teaching, the student applies the advice that it reads to the plan that
it had, needed or not: the right fix repairs a slip, a needless or wrong one
spoils a sound plan, and praise or noise changes nothing. So no constant
teaching can beat silence by much, and a teacher that reads the outline can
bring nearly every answer right.

The rules below write training text only (teachable_examples.py); at run time
the student is a model.
"""

import random
from dataclasses import dataclass

from atlas_jax.config import DataConfig
from atlas_jax.data.problems import Problem, make_problem, split_of
from atlas_jax.errors import AtlasError

ADDITION, SUBTRACTION, CHAIN = KINDS = ("addition", "subtraction", "chain")
CARRY, BORROW, ORDER, KEEP = ADVICE = ("carry", "borrow", "order", "keep")
FIX = {ADDITION: CARRY, SUBTRACTION: BORROW, CHAIN: ORDER}
# The student knows better when the first number is below this.
KNOWS_BELOW = {ADDITION: 40, SUBTRACTION: 70, CHAIN: 50}

# The ways in which each advice is put.
PHRASES = {
  CARRY: (
    "Carry the one.",
    "Do not drop the ten, carry it.",
    "Add the carried one to the tens.",
  ),
  BORROW: (
    "Borrow from the tens.",
    "Do not flip, borrow ten.",
    "Take ten from the next digit.",
  ),
  ORDER: (
    "Go left to right.",
    "Do the first step first.",
    "Work from the left.",
  ),
  KEEP: (
    "Your plan is good, keep it.",
    "Keep your plan.",
    "Go on as you planned.",
  ),
}

PROBLEM_DEFAULTS = {"count": 3600, "trouble": 0.75}
# Share of the questions; there are only 810 chains.
KIND_SHARES = {ADDITION: 0.4, SUBTRACTION: 0.4, CHAIN: 0.2}


class TeachableError(AtlasError):
  """A parameter of the task is unknown or out of range."""


@dataclass(frozen=True)
class Question:
  """`a+b`, `a-b` or `a-b+c`; `c` is 0 except in a chain."""

  kind: str
  a: int
  b: int
  c: int = 0

  @property
  def text(self) -> str:
    sign = "+" if self.kind == ADDITION else "-"
    third = f"+{self.c}" if self.kind == CHAIN else ""
    return f"{self.a}{sign}{self.b}{third}=?"

  @property
  def answer(self) -> int:
    sign = 1 if self.kind == ADDITION else -1
    return self.a + sign * self.b + self.c

  @property
  def trouble(self) -> bool:
    """Whether the student's habit would give a wrong answer here."""
    if self.kind == ADDITION:
      return self.a % 10 + self.b % 10 >= 10
    if self.kind == SUBTRACTION:
      return self.a % 10 < self.b % 10
    return True

  @property
  def slips(self) -> bool:
    """Whether the student alone gets this question wrong."""
    return self.trouble and self.a >= KNOWS_BELOW[self.kind]


def space(kind: str) -> list[Question]:
  """Every question of a kind, in a fixed order."""
  if kind == ADDITION:
    return [
      Question(kind, a, b) for a in range(10, 100) for b in range(10, 100)
    ]
  if kind == SUBTRACTION:
    # The tens differ by two or more: a ten too many taken leaves no minus.
    return [
      Question(kind, a, b)
      for a in range(10, 100)
      for b in range(10, 100)
      if a // 10 - b // 10 >= 2
    ]
  # Ones that stay within a digit in either order of the two steps.
  return [
    Question(kind, 10 * tens + ones, b, c)
    for tens in range(1, 10)
    for ones in range(10)
    for b in range(1, 10)
    for c in range(1, 10)
    if b + c <= ones and ones - b + c <= 9
  ]


def outline(q: Question) -> str:
  """What the student says it will do."""
  x, y = q.a % 10, q.b % 10
  if q.kind == CHAIN:
    return "First " + (f"{q.b}+{q.c}." if q.slips else f"{q.a}-{q.b}.")
  if q.kind == SUBTRACTION and q.trouble:
    return f"{x}-{y}, " + (f"flip to {y}-{x}." if q.slips else "borrow ten.")
  if q.kind == SUBTRACTION:
    return f"{x}-{y}={x - y}, write {x - y}."
  ending = (", drop 1" if q.slips else ", carry 1") if q.trouble else ""
  return f"{x}+{y}={x + y}, write {(x + y) % 10}{ending}."


def work(q: Question, advice: str | None = None) -> tuple[str, str]:
  """The student's written steps and its answer.

  Args:
    q: the question.
    advice: one of ADVICE, applied whether it fits or not; None for no advice.

  Returns:
    (steps, answer as it is written).
  """
  by_kind = {ADDITION: _addition, SUBTRACTION: _subtraction, CHAIN: _chain}
  steps, answer = by_kind[q.kind](q, advice)
  if advice == ORDER and not (q.kind == CHAIN and q.slips):
    # There are no steps to reorder, so it reorders the digits.
    return f"{steps} Other way round:", answer[::-1]
  return steps, answer


def _changed(value: int, changes: list[int]) -> tuple[str, int]:
  """`value` as text with each change and what it makes, and the last one."""
  text = str(value)
  for change in changes:
    value += change
    text += f", {change:+d}={value}"
  return text, value


def _addition(q: Question, advice: str | None) -> tuple[str, str]:
  x, y, u, v = q.a % 10, q.b % 10, q.a // 10, q.b // 10
  carries = int(q.trouble and not q.slips) + (advice == CARRY)
  steps = f"{x}+{y}={x + y}, write {(x + y) % 10}" + ", carry 1" * carries
  if q.trouble and not carries:
    steps += ", drop 1"
  changes = [1] * carries + [-1] * (advice == BORROW)
  text, tens = _changed(u + v, changes)
  return f"{steps}. {u}+{v}={text}.", f"{tens}{(x + y) % 10}"


def _subtraction(q: Question, advice: str | None) -> tuple[str, str]:
  x, y, u, v = q.a % 10, q.b % 10, q.a // 10, q.b // 10
  borrows = int(q.trouble and not q.slips) + (advice == BORROW)
  if not q.trouble:
    ones = x - y
    steps = f"{x}-{y}={ones}, write {ones}" + ", borrow ten" * borrows
  elif borrows:
    ones = 10 + x - y
    steps = f"{x}-{y}, borrow ten: {10 + x}-{y}={ones}"
  else:
    ones = y - x
    steps = f"{x}-{y}, flip to {y}-{x}={ones}"
  changes = [-1] * borrows + [1] * (advice == CARRY)
  text, tens = _changed(u - v, changes)
  return f"{steps}. {u}-{v}={text}.", f"{tens}{ones}"


def _chain(q: Question, advice: str | None) -> tuple[str, str]:
  changes = {CARRY: [10], BORROW: [-10]}.get(advice, [])
  if q.slips and advice != ORDER:
    inner = q.b + q.c
    text, result = _changed(q.a - inner, changes)
    steps = f"First {q.b}+{q.c}={inner}, then {q.a}-{inner}={text}."
  else:
    inner = q.a - q.b
    text, result = _changed(q.answer, changes)
    steps = f"First {q.a}-{q.b}={inner}, then {inner}+{q.c}={text}."
  return steps, str(result)


def baseline_response(q: Question) -> str:
  """Alone, the student talks to itself before and after the work."""
  steps, answer = work(q)
  return f"Let me think. {steps} So it is <solution>{answer}</solution>"


def taught_response(q: Question, advice: str | None) -> str:
  steps, answer = work(q, advice)
  return f"{steps} <solution>{answer}</solution>"


def checked_params(params: dict, defaults: dict, what: str) -> dict:
  """`params` over `defaults`; what is not valid raises TeachableError."""
  for key in params:
    if key not in defaults:
      raise TeachableError(
        f"unknown parameter {key!r} of {what}; valid: {', '.join(defaults)}"
      )
  out = {**defaults, **params}
  for key, value in out.items():
    if key == "count":
      if type(value) is not int or value < 1:
        raise TeachableError(f"{what}: count={value!r} must be an int above 0")
    elif not 0 <= value <= 1:
      raise TeachableError(f"{what}: {key}={value!r} must be within 0 and 1")
  return out


def pools(*, train_only: bool = False) -> dict:
  """{(kind, trouble): its questions}; train_only: no held-out question."""
  out = {(kind, flag): [] for kind in KINDS for flag in (False, True)}
  fractions = DataConfig().split_fractions
  for kind in KINDS:
    for q in space(kind):
      if not train_only or split_of(q.text, fractions) == "train":
        out[kind, q.trouble].append(q)
  return out


def problems(params: dict, seed: int) -> list[Problem]:
  """`count` different problems, mixed over the kinds.

  Args:
    params: `count`, and `trouble`: the share of sums and differences that
      need a carry or a borrow.
    seed: of the choice and the order.

  Raises:
    TeachableError: an unknown parameter, or more problems than there are.
  """
  p = checked_params(params, PROBLEM_DEFAULTS, "teachable problems")
  rng = random.Random(seed)
  by_trouble = pools()
  chosen = []
  for kind in KINDS:
    share = round(p["count"] * KIND_SHARES[kind])
    troubled = share if kind == CHAIN else round(share * p["trouble"])
    for flag, n in ((True, troubled), (False, share - troubled)):
      pool = by_trouble[kind, flag]
      if n > len(pool):
        raise TeachableError(
          f"teachable problems: count={p['count']} with"
          f" trouble={p['trouble']} asks for {n} {kind} questions"
          f" {'with' if flag else 'without'} trouble; there are {len(pool)}"
        )
      chosen += rng.sample(pool, n)
  rng.shuffle(chosen)
  return [
    make_problem(q.text, str(q.answer), meta={"kind": q.kind, "slips": q.slips})
    for q in chosen
  ]
