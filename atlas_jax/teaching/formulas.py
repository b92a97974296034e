"""Equality of formulas: math-verify reads and compares them, strictly.

By itself it picks numbers out of prose, takes what follows any `=`, rounds,
and takes a hedge for a set. Here a text is read whole or not at all, decimals
as fractions; answers are compared statement by statement, in any order; and
two values must be equal for sympy too.
"""

import re

import sympy
from latex2sympy2_extended.logic import And
from math_verify import LatexExtractionConfig, parse, verify
from math_verify.parser import NormalizationConfig
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

_WHOLE = LatexExtractionConfig(
  boxed_match_priority=-1,
  normalization_config=NormalizationConfig(
    basic_latex=True, malformed_operators=True, nits=True, boxed="none"
  ),
)
_KINDS = (sympy.Expr, sympy.MatrixBase, sympy.Tuple, sympy.Set, object)


def equal(gold: str, answer: str) -> bool:
  """Whether two formulas, or lists of them, state the same."""
  wanted, given = _statements(gold), _statements(answer)
  names = [{name for name, _ in side} for side in (wanted, given)]
  if not wanted or len(wanted) != len(given):
    return False
  if {None} in names and max(map(len, names)) > 1:
    return False  # whose value is whose?
  for statement in wanted:
    same = (other for other in given if _same(*statement, *other))
    if (found := next(same, None)) is None:
      return False
    given.remove(found)
  return True


def _statements(text: str) -> list[tuple]:
  """(name or None, value) of each; none where the text cannot be read."""
  for written, read in (
    (r"\\varnothing", r"\\emptyset"),
    (r"\*\*", "^"),
    (r"(?<![\\A-Za-z])(pi|ln|log|sin|cos|tan)(?![a-z])", r"\\\1 "),
    (r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}", _recurring),
    (r"(?<=\d)e([+-]?\d+)", r"\\cdot 10^{\1}"),
    (r"\^(-?\d+)", r"^{\1}"),
    (r"(?<=\d)i\b", " i"),
    (r"(\d*)\.(\d+)", lambda m: rf"\frac{{{m[1]}{m[2]}}}{{{10 ** len(m[2])}}}"),
  ):
    text = re.sub(written, read, text)
  if r"\pm" in text:
    both = (text.replace(r"\pm", sign) for sign in "+-")
    return [statement for one in both for statement in _statements(one)]
  # Their own time limits use SIGALRM; ours is the deadline outside.
  found = parse(f"${text}$", (_WHOLE,), "no_fallback", parsing_timeout=None)
  if not found or found[0].has(sympy.zoo, sympy.nan):
    return []
  parts = found[0].args if isinstance(found[0], sympy.FiniteSet) else found
  statements = [statement for part in parts for statement in _named(part)]
  names, values = zip(*statements, strict=True)
  if None in names or len(set(names)) > 1 or len(parts) == 1:
    return statements
  if not all(isinstance(value, sympy.Set) for value in values):
    return statements
  join = sympy.Intersection if "and" in text else sympy.Union
  return [(names[0], join(*values))]


def _recurring(match: re.Match) -> str:
  whole, once, again = match.groups()
  top = int(whole + once + again) - int(whole + once or 0)
  return rf"\frac{{{top}}}{{{10 ** len(once) * (10 ** len(again) - 1)}}}"


def _named(read) -> list[tuple]:
  """A name or a number before `=` is no part of what is stated."""
  chain = read._unsorted_args if isinstance(read, And) else [read]
  symbols = read.free_symbols
  if all(isinstance(part, sympy.Eq) for part in chain):
    left, right = chain[0].lhs, chain[-1].rhs
    if right.is_Symbol and not left.is_Symbol:
      left, right = right, left
    named = left.is_Symbol or isinstance(left, AppliedUndef)
    if not symbols - {left} or (named and len(chain) == 1):
      return [(left if named else None, right)]
    return [(None, read)]
  if len(symbols) == 1 and all(isinstance(part, Relational) for part in chain):
    return [(*symbols, sympy.And(*chain).as_set())]
  return [(None, read)]


def _same(name, value, other_name, other) -> bool:
  renamed = None not in (name, other_name) and name != other_name
  if renamed or isinstance(value, Relational) or isinstance(other, Relational):
    value, other = _equation(name, value), _equation(other_name, other)
  kinds = [next(k for k in _KINDS if isinstance(v, k)) for v in (value, other)]
  if kinds[0] is not kinds[1] or value is None or other is None:
    return False
  if not verify(value, other, numeric_precision=300, timeout_seconds=None):
    return False
  if isinstance(value, Relational):
    # Those without a solution are all the same to math-verify.
    ratio = (value.lhs - value.rhs) / (other.lhs - other.rhs)
    return bool(sympy.simplify(ratio).is_number)
  return bool(
    kinds[0] is not sympy.Expr or value == other or value.equals(other)
  )


def _equation(name, value) -> Relational | None:
  """None for a number: what is not solved yet is no answer to it."""
  if isinstance(value, Relational):
    return value
  if name is None or not isinstance(value, sympy.Expr) or value.is_number:
    return None
  return sympy.Eq(name, value, evaluate=False)
