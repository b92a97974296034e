"""Which families of reasoning-gym are used, and how an answer is judged.

Many of its scorers evaluate the answer as Python or sympy code, and an answer
is what a model says. So every scorer of release REVIEWED was read:
  OURS     evaluates, or takes wrong answers: judged here instead
  GRAMMAR  evaluates, mostly: gets only what is admitted, such as arithmetic
  REFUSED  is not used, for the reason that stands there
All others compare texts and numbers and evaluate nothing: used as they are.
"""

import ast
import functools
import importlib.metadata
import re
from collections.abc import Mapping
from fractions import Fraction

from atlas_jax.teaching import equality

REVIEWED = "0.1.25"
REFUSED = {
  **dict.fromkeys(
    ("boxnet", "graph_color", "rubiks_cube", "rush_hour"),
    "its entries hold no answer",
  ),
  "composite": "its scorer is that of whatever family an entry names",
  "prime_factorization": "its scorer cannot be relied on: it hangs",
  "propositional_logic": "its scorer cannot be relied on: tautologies pass",
  "puzzle24": "its scorer does not ask for the puzzle's own numbers",
}


def usable() -> set[str]:
  from reasoning_gym.factory import DATASETS

  return DATASETS.keys() - REFUSED.keys()


def refusal(family: str) -> str:
  """Why a family is not used, and how it could be; empty where it is."""
  here = "atlas_jax/teaching/families.py"
  installed = importlib.metadata.version("reasoning-gym")
  if installed != REVIEWED:
    return (
      f"reasoning-gym {installed} is installed, its scorers were read in"
      f" {REVIEWED}: install that, or read what changed and mend {here}"
    )
  if family in usable():
    return ""
  unread = {family: "its scorer was not read"}
  return (
    f"{(unread | REFUSED)[family]}; to use it, read its scorer and list it in"
    f" {here}; valid: {', '.join(sorted(usable()))}"
  )


@functools.cache
def _scorer(family: str):
  if why := refusal(family):
    raise ValueError(why)
  import reasoning_gym

  return reasoning_gym.get_score_answer_fn(family)


def right(family: str, entry: Mapping, answer: str) -> bool:
  """Whether an answer gets the full score; an answer in part is not right."""
  scorer = _scorer(family)
  if family in OURS:
    return OURS[family](answer.strip(), entry)
  if family in GRAMMAR and not GRAMMAR[family](answer, entry):
    return False
  # It asks for four decimals, rounded in a way of its own.
  least = 0.99 if family == "polynomial_equations" else 1.0
  return float(scorer(answer, entry)) >= least


def _numbers(text: str) -> list[float]:
  return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def _rounds_to(gold: str, answer: str) -> bool:
  """Four decimals, as their tolerance has it."""
  try:
    return abs(Fraction(answer) - Fraction(gold)) <= Fraction(1, 10_000)
  except (ValueError, ZeroDivisionError):
    return False


OURS = {
  "binary_matrix": lambda answer, e: answer == e["answer"],
  "bitwise_arithmetic": lambda answer, e: answer.lower() == e["answer"],
  "coin_flip": lambda answer, e: _rounds_to(e["answer"], answer),
  "game_of_life_halting": lambda answer, e: answer == e["answer"],
  "gsm_symbolic": lambda a, e: equality.exact_equal(e["answer"], a) is True,
  "n_queens": lambda answer, e: answer in e["metadata"]["valid_answers"],
  "number_sorting": lambda a, e: _numbers(a) == _numbers(e["answer"]) != [],
  "spell_backward": lambda answer, e: answer == e["answer"],
  "spiral_matrix": lambda answer, e: answer == e["answer"].strip(),
  "string_insertion": lambda answer, e: answer == e["answer"],
}
_FUNCTIONS = (
  "sin cos tan sec csc cot asin acos atan sinh cosh tanh exp log ln sqrt Abs"
)


def _arithmetic(text: str, functions: str = _FUNCTIONS) -> bool:
  """Whether a text is arithmetic alone, and too small to take long.

  Decimal numbers, + - * / ( ), powers of a number (of E: any); and, with
  functions, these of one argument, single letters and pi.
  """
  # Not 0x10, 1e9, 1j, 1.real.
  if not re.fullmatch(r"(?:(?<![0-9.])[A-Za-z]|[0-9 .()+*/-]){1,2000}", text):
    return False
  try:
    tree = ast.parse(text.strip(), mode="eval")
    return _size(tree.body, functions) <= 10_000
  except (SyntaxError, ValueError, ArithmeticError, RuntimeError, MemoryError):
    return False


def _size(node: ast.expr, functions: str = "") -> float:
  """A bound on the digits or degree of a value; ValueError: not admitted."""
  match node:
    case ast.Constant() if type(node.value) in (int, float):
      return len(str(node.value))
    case ast.Name() if functions and (len(node.id) == 1 or node.id == "pi"):
      return 1
    case ast.UnaryOp(op=ast.UAdd() | ast.USub()):
      return _size(node.operand, functions)
    case ast.Call(func=ast.Name(id=name), args=[x]) if (
      name in functions.split()
    ):
      return 1 + _size(x, functions)
    case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()):
      return _size(node.left, functions) + _size(node.right, functions)
    case ast.BinOp(op=ast.Pow(), left=ast.Name(id="E")) if functions:
      return 1 + _size(node.right, functions)
    case ast.BinOp(op=ast.Pow()) if functions and _size(node.right):
      power = abs(Fraction(re.sub("[() ]", "", ast.unparse(node.right))))
      if power <= 100:
        return _size(node.left, functions) * max(1, power)
  raise ValueError("not admitted")


GRAMMAR = {
  # The distance of a complex nan is 0 there.
  "complex_arithmetic": lambda answer, _: "nan" not in answer.lower(),
  "countdown": lambda answer, _: _arithmetic(answer, functions=""),
  # Without a gold root all that is no number is right there.
  "polynomial_equations": lambda _, e: bool(e["answer"]),
  "polynomial_multiplication": lambda answer, e: (
    _arithmetic(answer) and _arithmetic(e["answer"])
  ),
  **dict.fromkeys(
    ("intermediate_integration", "simple_integration"),
    lambda answer, e: (
      _arithmetic(answer) and _arithmetic(e["metadata"]["integrand"])
    ),
  ),
}
