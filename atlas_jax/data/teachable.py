"""The built-in task: arithmetic of a tiny student that needs teaching.

Questions are arithmetic with two-digit numbers, of three kinds. The student
is a small model trained on the dialogues written here, and makes systematic
slips:

  addition      36+46     it forgets the carry
  subtraction   62-37     it takes the smaller from the larger digit
  chain         47-3+2    it does 3+2 first

It does not always slip. A trait of the question decides (a first number below
`KNOWS_BELOW` is familiar ground), and a sum without a carry comes out right
anyway. Its plan, which the probe asks for, says what it is about to do.

With teaching, the student applies the advice that it reads to the plan that
it had, needed or not: the right fix repairs a slip, a needless or wrong one
spoils a sound plan, and praise or noise changes nothing. So no constant
teaching can beat silence by much, and a teacher that reads the plan can
bring nearly every answer right.

The rules below write training text only (teachable_examples.py); at run time
the student is a model.
"""

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass

from atlas_jax.config import DataConfig
from atlas_jax.config_tree import PositiveInt, Share, build
from atlas_jax.data.problems import DataError, Problem, make_problem, split_of

ADDITION, SUBTRACTION, CHAIN = KINDS = ("addition", "subtraction", "chain")
CARRY, BORROW, ORDER, KEEP = ADVICE = ("carry", "borrow", "order", "keep")
FIX = {ADDITION: CARRY, SUBTRACTION: BORROW, CHAIN: ORDER}
# The student makes no slip when the first number is below this.
KNOWS_BELOW = {ADDITION: 40, SUBTRACTION: 70, CHAIN: 50}

# The teachings that give each advice.
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

# Share of the questions; there are only 810 chains.
KIND_SHARES = {ADDITION: 0.4, SUBTRACTION: 0.4, CHAIN: 0.2}


@dataclass(frozen=True)
class ProblemParams:
  """What config.data.params may hold."""

  count: PositiveInt = 3600
  trouble: Share = 0.75  # of sums and differences, that need a carry or borrow


@dataclass(frozen=True)
class Exercise:
  """A question `a+b`, `a-b` or `a-b+c`; `c` is 0 except in a chain.

  knows: of the student, the part of KNOWS_BELOW that it is familiar with.
  """

  kind: str
  a: int
  b: int
  c: int = 0
  knows: float = 1.0

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
    """Whether the student alone gets this exercise wrong."""
    return self.trouble and self.a >= self.knows * KNOWS_BELOW[self.kind]


def exercises(kind: str) -> list[Exercise]:
  """All exercises of a kind, in a fixed order."""
  if kind == CHAIN:
    digits = range(1, 10)
    numbers = itertools.product(range(10, 100), digits, digits)
    # Ones that stay within a digit in either order of the two steps.
    return [
      Exercise(kind, a, b, c)
      for a, b, c in numbers
      if b + c <= a % 10 and a % 10 - b + c <= 9
    ]
  questions = [
    Exercise(kind, a, b) for a, b in itertools.product(range(10, 100), repeat=2)
  ]
  if kind == ADDITION:
    return questions
  # The tens differ by two or more: a ten too many taken leaves no minus.
  return [q for q in questions if q.a // 10 - q.b // 10 >= 2]


def probe_response(q: Exercise) -> str:
  """The student's plan, as it answers the probe."""
  plan, _, _ = _WORK[q.kind](q, None)
  return f"{plan}."


def work(q: Exercise, advice: str | None = None) -> tuple[str, str]:
  """The student's written steps and its answer.

  Args:
    q: the exercise.
    advice: one of ADVICE, applied whether it fits or not; None for no advice.

  Returns:
    (steps, answer as it is written).
  """
  plan, further, answer = _WORK[q.kind](q, advice)
  if advice == ORDER and not (q.kind == CHAIN and q.slips):
    # There are no steps to reorder, so it reorders the digits.
    return f"{plan}{further} Other way round:", answer[::-1]
  return plan + further, answer


def _changed(value: int, changes: list[int]) -> tuple[str, int]:
  """(the value and each change with its result as text, the last result)."""
  text = str(value)
  for change in changes:
    value += change
    text += f", {change:+d}={value}"
  return text, value


def _addition(q: Exercise, advice: str | None) -> tuple[str, str, str]:
  """(the plan, the steps that follow it, the answer), as of every kind."""
  x, y, u, v = q.a % 10, q.b % 10, q.a // 10, q.b // 10
  ones = (x + y) % 10
  carries = int(q.trouble and not q.slips) + (advice == CARRY)
  plan = f"{x}+{y}={x + y}, write {ones}" + ", carry 1" * carries
  if q.trouble and not carries:
    plan += ", drop 1"
  text, tens = _changed(u + v, [1] * carries + [-1] * (advice == BORROW))
  return plan, f". {u}+{v}={text}.", f"{tens}{ones}"


def _subtraction(q: Exercise, advice: str | None) -> tuple[str, str, str]:
  x, y, u, v = q.a % 10, q.b % 10, q.a // 10, q.b // 10
  borrows = int(q.trouble and not q.slips) + (advice == BORROW)
  if not q.trouble:
    ones = x - y
    plan, end = f"{x}-{y}={ones}, write {ones}" + ", borrow ten" * borrows, ""
  elif borrows:
    ones = 10 + x - y
    plan, end = f"{x}-{y}, borrow ten", f": {10 + x}-{y}={ones}"
  else:
    ones = y - x
    plan, end = f"{x}-{y}, flip to {y}-{x}", f"={ones}"
  text, tens = _changed(u - v, [-1] * borrows + [1] * (advice == CARRY))
  return plan, f"{end}. {u}-{v}={text}.", f"{tens}{ones}"


def _chain(q: Exercise, advice: str | None) -> tuple[str, str, str]:
  changes = {CARRY: [10], BORROW: [-10]}.get(advice, [])
  if q.slips and advice != ORDER:
    inner = q.b + q.c
    first, second, value = f"{q.b}+{q.c}", f"{q.a}-{inner}", q.a - inner
  else:
    inner = q.a - q.b
    first, second, value = f"{q.a}-{q.b}", f"{inner}+{q.c}", q.answer
  text, result = _changed(value, changes)
  return f"First {first}", f"={inner}, then {second}={text}.", str(result)


_WORK = {ADDITION: _addition, SUBTRACTION: _subtraction, CHAIN: _chain}


def baseline_response(q: Exercise) -> str:
  """The student's answer alone: its work, with talk before and after."""
  steps, answer = work(q)
  return f"Let me think. {steps} So it is <solution>{answer}</solution>"


def taught_response(q: Exercise, advice: str | None) -> str:
  """The student's answer under teaching that gives this advice."""
  steps, answer = work(q, advice)
  return f"{steps} <solution>{answer}</solution>"


def by_kind_and_trouble(
  *, train_only: bool = False
) -> dict[tuple[str, bool], list[Exercise]]:
  """{(kind, trouble): exercises}; train_only: no held-out question."""
  out = {(kind, flag): [] for kind in KINDS for flag in (False, True)}
  fractions = DataConfig().split_fractions
  for kind in KINDS:
    for q in exercises(kind):
      if not train_only or split_of(q.text, fractions) == "train":
        out[kind, q.trouble].append(q)
  return out


def problems(params: Mapping, seed: int) -> list[Problem]:
  """`count` different problems, mixed over the kinds.

  Args:
    params: as ProblemParams.
    seed: of the choice and the order.

  Raises:
    ConfigError: a parameter is unknown or not valid.
    DataError: more problems than there are.
  """
  p = build(ProblemParams, params, "config.data.params")
  rng = random.Random(seed)
  by_trouble = by_kind_and_trouble()
  chosen = []
  for kind in KINDS:
    share = round(p.count * KIND_SHARES[kind])
    troubled = share if kind == CHAIN else round(share * p.trouble)
    for flag, n in ((True, troubled), (False, share - troubled)):
      pool = by_trouble[kind, flag]
      if n > len(pool):
        raise DataError(
          f"config.data.params: count={p.count} with"
          f" trouble={p.trouble} asks for {n} {kind} questions"
          f" {'with' if flag else 'without'} trouble; there are {len(pool)}"
        )
      chosen += rng.sample(pool, n)
  rng.shuffle(chosen)
  return [
    make_problem(q.text, str(q.answer), meta={"kind": q.kind, "slips": q.slips})
    for q in chosen
  ]
