"""Exact equality of short answers: numbers as fractions, words as words.

What counts as one number: 18, $18, 1,234, -3.50, 1/2, 1 1/2, \\frac{1}{2},
50%, 1.2e3, 5 million, 18 dollars, x = 18, 3 + 4 = 7 (the right side).
Rules of comparison:
  1. values are compared exactly: 0.001 is not 0.004, 0.5 is 1/2;
  2. where one side alone has a percent sign, both readings of it are taken
     (50% is 0.5, and is 50 where percents were asked for);
  3. a unit is ignored unless both sides name one, and then they must agree.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = (
  r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
)
_EXPONENT = r"(?:[eE][+-]?[0-9]{1,3})?"
_NUMBER = re.compile(
  rf"(?P<sign>[+-]?)\s*(?P<currency>[$€£]?)\s*(?P<inner>[+-]?)"
  rf"(?:(?P<whole>[0-9]+)\s+(?P<part>[0-9]+)\s*/\s*(?P<parts>[0-9]+)"
  rf"|(?P<top>{_DIGITS}{_EXPONENT})\s*/\s*(?P<bottom>{_DIGITS}{_EXPONENT})"
  rf"|(?P<simple>{_DIGITS}{_EXPONENT}))"
)
_TAIL = re.compile(
  r"\s*(?P<percent>%|percent\b)?\s*(?P<unit>.*)", re.DOTALL | re.IGNORECASE
)
_WORD = r"[A-Za-z°][A-Za-z]*(?:[²³]|\^[23])?"
_UNIT = re.compile(rf"{_WORD}(?:[ /]{_WORD}){{0,2}}")
# A dash before a number in prose is its sign unless something is left of it.
_IN_PROSE = re.compile(
  rf"(?<![\w.])(?:(?<![0-9)]\s)(?<![\w)])-)?[$€£]?{_DIGITS}"
  rf"(?:\s*/\s*{_DIGITS})?\s?%?(?!\w)"
)
_TOUCHING_UNITS = re.compile(
  "k?m?g|[cmk]?m|m?l|s|h|min|hrs?|lbs?|oz|ft|in|mph|kmh|[ap]m|°?[cf]|°"
)
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound"}
_SCALES = {
  "dozen": 12,
  "hundred": 10**2,
  "thousand": 10**3,
  "million": 10**6,
  "billion": 10**9,
  "trillion": 10**12,
}
# Words after a number that change its value or put it in doubt.
_NOT_UNITS = re.compile(
  "pi|sqrt|e|i|x|y|z|n|k|plus|minus|times|over|divided|half|halves|thirds?"
  "|quarters?|and|or|not|more|less|squared|cubed|to"
)
_PLAIN_SIGNS = str.maketrans({"−": "-", "–": "-", "⁄": "/", "\u00a0": " "})
_MATHEMATICAL = re.compile(r"[\d\\^=+*/<>{}√π]")
_FORMULA = re.compile(r"\\|\^|[=+*<>√π²³]|\bsqrt|\bpi\b|\b[a-z]\b|[0-9][a-z]")
# Only an answer with an operation in it can still be equal to a number.
_COMPUTED = re.compile(
  r"[\\^+*/√π!(){}]|[0-9]\s*-\s*[0-9]|sqrt|\bpi\b|[0-9][a-z]"
)


@dataclass(frozen=True)
class Number:
  """An exact value and what was written around it."""

  value: Fraction
  percent: bool = False
  unit: str = ""


def normalise(text: str) -> str:
  """The text without typesetting: no $..$, \\text, \\left, thin spaces."""
  text = text.strip().translate(_PLAIN_SIGNS)
  text = re.sub(
    r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[!,;: ]", "", text
  )
  text = re.sub(
    r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", text
  )
  text = re.sub(
    r"\\[td]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}", r"(\1)/(\2)", text
  )
  text = re.sub(r"\((\s*-?[\d.,]+\s*)\)/\((\s*[\d.,]+\s*)\)", r"\1/\2", text)
  text = text.replace("\\$", "$").replace("\\%", "%").replace("{,}", ",")
  text = re.sub(r"^\\[(\[](.*)\\[)\]]$", r"\1", text, flags=re.DOTALL).strip()
  text = re.sub(r"^\$+([^$]*)\$+$", r"\1", text).strip()
  text = text.strip("*_`\"'“”‘’ \n")
  return re.sub(r"(?<=\S)[.;,]+$", "", text).strip()


def parse_number(text: str) -> Number | None:
  """The one number that `text` states, or None if it states anything else."""
  text = normalise(text)
  if len(text) > 200:
    return None
  if "=" in text:
    text = text.rpartition("=")[2].strip()
  match = _NUMBER.match(text)
  if match is None:
    return None
  value = _value(match)
  tail = _TAIL.fullmatch(text[match.end() :])
  unit = tail["unit"].strip()
  if value is None:
    return None
  if unit:
    touching = text[match.end() : match.end() + 1].isalpha()
    words = unit.lower().split()
    if words[0] in _SCALES and not touching:
      value *= _SCALES[words[0]]
      unit = " ".join(words[1:])
    elif touching and not _TOUCHING_UNITS.fullmatch(unit.lower()):
      return None
  if unit:
    words = re.split(r"[ /]", unit.lower())
    if not _UNIT.fullmatch(unit) or any(map(_NOT_UNITS.fullmatch, words)):
      return None
  currency = _CURRENCIES[match["currency"]] if match["currency"] else ""
  return Number(
    value, tail["percent"] is not None, _same_unit(unit or currency)
  )


def _same_unit(unit: str) -> str:
  unit = unit.lower()
  return unit[:-1] if len(unit) > 2 and unit.endswith("s") else unit


def _value(match: re.Match) -> Fraction | None:
  def exact(digits):
    return Fraction(digits.replace(",", ""))

  if match["sign"] and match["inner"]:
    return None
  sign = -1 if "-" in (match["sign"], match["inner"]) else 1
  if match["whole"] is not None:
    if int(match["parts"]) == 0:
      return None
    whole = Fraction(int(match["part"]), int(match["parts"]))
    return sign * (int(match["whole"]) + whole)
  if match["top"] is not None:
    bottom = exact(match["bottom"])
    return None if bottom == 0 else sign * exact(match["top"]) / bottom
  return sign * exact(match["simple"])


def numbers_in(text: str) -> list[Number]:
  """Every number that stands in running text, in order."""
  found = []
  for match in _IN_PROSE.finditer(text.translate(_PLAIN_SIGNS)):
    number = parse_number(match[0])
    if number is not None:
      found.append(number)
  return found


def equal_numbers(a: Number, b: Number) -> bool:
  """By the three rules at the top."""
  if a.unit and b.unit and a.unit != b.unit:
    return False
  if a.percent != b.percent:
    percent, plain = (a, b) if a.percent else (b, a)
    return plain.value in (percent.value, percent.value / 100)
  return a.value == b.value


def plain_words(text: str) -> str:
  """The text for comparison as words: case, brackets, white space gone."""
  text = " ".join(normalise(text).casefold().split())
  return re.sub(r"^[(\[]?([a-z0-9]{1,3})[)\]]$", r"\1", text)


def exact_equal(gold: str, answer: str) -> bool | None:
  """True or False where that is certain; None: mathematics must decide."""
  if plain_words(gold) == plain_words(answer):
    return True
  gold_number, number = parse_number(gold), parse_number(answer)
  if gold_number is not None:
    if number is None:
      # One number in a sentence is the answer; two are a hedge.
      stated = numbers_in(normalise(answer))
      if len(stated) == 1 and not _FORMULA.search(answer):
        number = stated[0]
    if number is not None:
      return equal_numbers(gold_number, number)
    if not _COMPUTED.search(answer):
      return False
  if _MATHEMATICAL.search(gold) and _MATHEMATICAL.search(answer):
    return None
  return False
