"""Equality of formulas: math-verify reads and compares them, strictly.

By itself it picks numbers out of prose, takes what follows any `=`, rounds,
and takes a hedge for a set. Here a text is read whole or not at all, decimals
as fractions; answers are compared statement by statement, in any order; and
two values must be equal for sympy too.
"""

import functools
import re

import sympy
from latex2sympy2_extended.logic import And
from math_verify import LatexExtractionConfig, parse, verify
from math_verify.parser import NormalizationConfig
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from atlas_jax.teaching.equality import formula

_AS_IT_IS = NormalizationConfig(malformed_operators=True, boxed="none")
_WHOLE = LatexExtractionConfig(True, -1, _AS_IT_IS)  # -1: in no box
# What is equal to none of another kind, whatever it holds.
_KINDS = (sympy.Expr, sympy.MatrixBase, sympy.Tuple, sympy.Set, Relational)
# (what is written, what math-verify reads)
_SPELLINGS = (
  (r"\\varnothing", r"\\emptyset"),
  (r"\*\*", "^"),
  (r"^\\\{ ?[a-z] ?(?:\\mid|[:|])(.*)\\\}$", r"\1"),
  (r"(?<=[\])]) ?U ?(?=[\[(])", r" \\cup "),
  (r"^\([a-z](?:, ?[a-z])+\) ?= ?(?=\()", ""),
  (r"^[A-Za-z] ?= ?(?=[^=(\[]+(?:,| or )[^=]+$)", ""),
  (
    r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}",
    lambda m: f"({m[1]}.{m[2]}0+{m[3]}/{'9' * len(m[3])}{'0' * len(m[2])})",
  ),
  (r"(?<=\d)e([+-]?\d+)", r"\\cdot 10^{\1}"),
  (r"(?<=\d)i\b", " i"),
  (r"\\frac\{d([a-z])\}\{d([a-z])\}", r"\1_{d\2}"),
  (r"′|\^?\{?\\prime\}?", "'"),
  (r"(?<=[A-Za-z])'+", lambda m: f"_{{{'p' * len(m[0])}}}"),
  (r".*\\pm.*", lambda m: ", ".join(m[0].replace(r"\pm", s) for s in "+-")),
  # Not a mixed number, as a fraction in brackets would be.
  (r"((?<![_^\d.])\d+|\)) ?(?=(?:\\left ?)?\()", r"\1 \\cdot "),
  (r"(\d*)\.(\d+)", lambda m: rf"\frac{{{m[1]}{m[2]}}}{{{10 ** len(m[2])}}}"),
)


@functools.lru_cache(4096)
def equal(gold: str, answer: str) -> bool:
  """Whether two formulas, or lists of them, state the same."""
  wanted, given = (_statements(formula(text)) for text in (gold, answer))
  names = [{name for name, _ in side} for side in (wanted, given)]
  if {None} in names and max(map(len, names)) > 1:
    return False  # whose value is whose?
  same = [[_same(*one, *other) for other in given] for one in wanted]
  return wanted != [] and all(map(any, [*same, *zip(*same, strict=True)]))


@functools.lru_cache(256)  # a group of answers has one gold answer
def _statements(text: str) -> list[tuple]:
  """(name or None, value) of each; none where the text cannot be read."""
  for written, read in _SPELLINGS:
    text = re.sub(written, read, text)
  # Their own time limits use SIGALRM; ours is the deadline outside.
  found = parse(f"${text}$", (_WHOLE,), "no_fallback", parsing_timeout=None)
  if not found or found[0].has(sympy.zoo, sympy.nan):
    return []
  parts = found[0].args if isinstance(found[0], sympy.FiniteSet) else found
  statements = [_named(part) for part in parts]
  (name, *others), values = zip(*statements, strict=True)
  if {*others} - {name} and re.search(r"\bor\b", text):
    return []  # it leaves each of several names open
  ranges = all(isinstance(value, sympy.Set) for value in values)
  if name is None or {*others} - {name} or not ranges:
    return statements
  both = sympy.Intersection(*values)
  if "and" in text:
    return [(name, both)]
  # With a comma alone, ranges that overlap may be either.
  joined = "or" in text or both is sympy.S.EmptySet
  return [(name, sympy.Union(*values))] if joined else statements


def _named(read) -> tuple:
  """(name or None, value): a number before `=` is not what is stated."""
  chain = read._unsorted_args if isinstance(read, And) else [read]
  symbols = read.free_symbols
  if all(isinstance(part, sympy.Eq) for part in chain):
    left, right = chain[0].lhs, chain[-1].rhs
    if right.is_Symbol and not left.is_Symbol:
      left, right = right, left
    named = left.is_Symbol or isinstance(left, AppliedUndef)
    if not symbols - {left} or (named and len(chain) == 1):
      return (left if named else None), right
  elif isinstance(chain[0], Relational) and len(symbols) == 1:
    # One by one: of a whole chain sympy looks for periods, slowly.
    return *symbols, sympy.Intersection(*(part.as_set() for part in chain))
  return None, read


def _same(name, value, other_name, other) -> bool:
  renamed = None not in (name, other_name) and name != other_name
  if renamed or isinstance(value, Relational) or isinstance(other, Relational):
    value, other = _equation(name, value), _equation(other_name, other)
  if any(isinstance(value, k) is not isinstance(other, k) for k in _KINDS):
    return False
  if value == other:
    return value is not None
  if isinstance(value, sympy.Expr):
    return bool(value.equals(other))
  if isinstance(value, Relational):
    # Those without a solution are all the same to math-verify.
    ratio = (value.lhs - value.rhs) / (other.lhs - other.rhs)
    ratio = sympy.simplify(ratio)
    multiple = bool(ratio.is_number and ratio.is_nonzero)
    if not multiple or {type(value), type(other)} == {sympy.Eq}:
      return multiple
  return verify(value, other, numeric_precision=300, timeout_seconds=None)


def _equation(name, value) -> Relational | None:
  """None for a number: what is not solved yet is no answer to it."""
  if name is None or value.is_number:
    return value if isinstance(value, Relational) else None
  return sympy.Eq(name, value, evaluate=False)
