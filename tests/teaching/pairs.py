"""Pairs of short answers that are equal, or not, because they are so made.

Each kind draws a value, spells it in two ways, and spells another value.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Pair:
  """Two answers; plain: both are formulas, without words or units."""

  kind: str
  gold: str
  answer: str
  equal: bool
  plain: bool


def _number(value: Fraction, rng) -> str:
  sign, size = "-" if value < 0 else "", abs(value)
  top, bottom = size.numerator, size.denominator
  ways = [rf"{sign}\frac{{{top}}}{{{bottom}}}", f"{sign}{top}/{bottom}"]
  if bottom == 1:
    ways = [f"{sign}{top}", f"{sign}{top:,}", f"{sign}{top}.0", f"{sign}{top}."]
    ways += [f"${sign}{top}$", rf"{sign}{top:,}".replace(",", "{,}")]
  elif top > bottom:
    whole, rest = divmod(top, bottom)
    ways += [rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}"]
    ways += [rf"{sign}{whole}\tfrac{{{rest}}}{{{bottom}}}"]
    ways += [f"{sign}{whole} {rest}/{bottom}"]
  else:
    ways += [rf"{sign}\dfrac{{{3 * top}}}{{{3 * bottom}}}"]
  if 1000 % bottom == 0:
    ways += [f"{float(value)}", f"{float(value):.4f}"]
  return rng.choice(ways)


def _in_words(value: Fraction, rng) -> str:
  shape = ("{} apples", "**{}**", "${}", "x = {}", "a total of {}", "{} a week")
  return rng.choice(shape).format(_number(value, rng))


def _value(rng) -> Fraction:
  top = rng.choice([rng.randint(-20, 20), rng.randint(1000, 99999)])
  return Fraction(top, rng.choice([1, 1, 2, 3, 4, 5, 7, 8]))


def _other(value: Fraction, rng) -> Fraction:
  return value + rng.choice([1, -1, Fraction(1, 2), Fraction(1, 100), 10])


def _set(values, rng) -> str:
  items = [str(v) for v in rng.sample(sorted(values), len(values))]
  ways = [", ".join(items), r"\{" + ", ".join(items) + r"\}"]
  ways += [" and ".join(items), " or ".join(f"x = {i}" for i in items)]
  return rng.choice(ways)


def _some(rng) -> frozenset[int]:
  return frozenset(rng.sample(range(-9, 30), rng.randint(2, 4)))


def _other_some(values, rng):
  kept = set(values) - {rng.choice(sorted(values))}
  return frozenset(rng.choice([kept | {99}, set(values) | {99}, kept]))


def _interval(value, rng) -> str:
  low, high, left, right = value
  down, up = "<" + "=" * (left == "["), "<" + "=" * (right == "]")
  ways = [f"{left}{low}, {high}{right}", f"{low} {down} x {up} {high}"]
  ways += [f"{high} {up.replace('<', '>')} x {down.replace('<', '>')} {low}"]
  ways += [rf"x \in {left}{low}, {high}{right}"]
  ways += [ways[1].replace("<=", r"\le"), ways[1].replace("<=", "≤")]
  return rng.choice(ways)


def _range(rng):
  low = rng.randint(-9, 9)
  return low, low + rng.randint(1, 9), rng.choice("[("), rng.choice("])")


def _other_range(value, rng):
  low, high, left, right = value
  return rng.choice(
    [
      (low, high + 1, left, right),
      (low - 1, high, left, right),
      (low, high, "(" if left == "[" else "[", right),
      (low, high, left, ")" if right == "]" else "]"),
    ]
  )


def _named(values, rng) -> str:
  items = list(zip("abc", values, strict=False))
  joint = rng.choice([", ", " and ", "; "])
  return joint.join(f"{n} = {v}" for n, v in rng.sample(items, len(items)))


def _line(value, rng) -> str:
  factor = rng.choice([1, 2, 3, -1])
  a, b, c = (factor * v for v in value)
  return rng.choice(
    [f"{a}x + {b}y = {c}", f"{b}y + {a}x = {c}", f"{c} = {a}x + {b}y"]
  ).replace("+ -", "- ")


def _with_unit(value, rng) -> str:
  number, unit = value
  ways = [f"{number} {unit}", f"{number} {unit.upper()}", f"{number}{unit}"]
  return rng.choice([*ways, rf"{number}\text{{ {unit}}}"])


def _choice(letter, rng) -> str:
  ways = "{}|({})|{}.|**{}**|Option {}|{}) 42 km|\\text{{({})}}|{}: 42 km"
  return rng.choice(ways.split("|")).format(letter)


def _based(value, rng) -> str:
  base = rng.choice([2, 3, 8, 10])
  digits, left = "", value
  while left:
    left, digit = divmod(left, base)
    digits = f"{digit}{digits}"
  return rng.choice([f"{digits}_{base}", f"{digits}_{{{base}}}"])


# kind: how to draw, to draw another, to spell, and whether it is a formula
_KINDS: dict[str, tuple[Callable, Callable, Callable, bool]] = {
  "number": (_value, _other, _number, True),
  "number in words": (_value, _other, _in_words, False),
  "set": (_some, _other_some, _set, True),
  "interval": (_range, _other_range, _interval, True),
  "equations": (
    lambda rng: rng.sample(range(-9, 30), rng.randint(2, 3)),
    lambda values, rng: [values[1], values[0], *values[2:]],
    _named,
    True,
  ),
  "line": (
    lambda rng: (rng.randint(1, 9), rng.randint(1, 9), rng.randint(1, 9)),
    lambda v, rng: (v[0], v[1], v[2] + rng.randint(1, 9)),
    _line,
    True,
  ),
  "unit": (
    lambda rng: (rng.randint(1, 99), rng.choice(["km", "kg", "ml", "min"])),
    lambda v, rng: rng.choice([(v[0] + 1, v[1]), (v[0], "cm")]),
    _with_unit,
    False,
  ),
  "choice": (
    lambda rng: rng.choice("ABCDE"),
    lambda letter, rng: rng.choice(sorted(set("ABCDE") - {letter})),
    _choice,
    False,
  ),
  "base": (
    lambda rng: rng.randint(2, 300),
    lambda value, rng: value + rng.randint(1, 5),
    _based,
    False,
  ),
}


def pairs(count: int, seed: int, kinds=tuple(_KINDS)) -> Iterator[Pair]:
  """`count` pairs, every kind in turn, as many equal as not."""
  rng = random.Random(seed)
  for index in range(count):
    kind = kinds[index % len(kinds)]
    draw, another, spell, plain = _KINDS[kind]
    value, equal = draw(rng), rng.random() < 0.5
    other = value if equal else another(value, rng)
    # A gold answer is no sentence.
    gold = _number(value, rng) if spell is _in_words else spell(value, rng)
    yield Pair(kind, gold, spell(other, rng), equal, plain)
