"""Equality of short answers: certain here, or left to mathematics.

What counts as one number: 18, $18, 1,234, -3.50, 1/2, 3\\frac{1}{2}, 3½, 50%,
1.2e3, 5 million, 58 dollars a week, 1011_2, 1:00 pm, x = 18, Total = 18, and a
lone number among words that neither change it nor put it in doubt.
Rules of comparison:
  1. values are compared exactly: 0.001 is not 0.004, 0.5 is 1/2;
  2. where one side alone has a percent sign, both readings of it are taken
     (50% is 0.5, and is 50 where percents were asked for);
  3. a unit or a half of the day is ignored unless both sides name one, and
     then they must agree; a base or a time must stand on both sides;
  4. a choice is its letter: D, (D), D) 42 km, Option D.
What is left are two formulas (formulas.py), or the answer is wrong.
"""

import functools
import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

_SIGNS = str.maketrans(
  {"−": "-", "–": "-", "⁄": "/", "√": r"\sqrt ", "×": r"\times ", "≈": "="}
  | {"·": r"\cdot ", "∈": r"\in ", "∞": r"\infty ", "°": " degree "}
)
_COUNTS = "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
# (what is written, what stands for it), in this order.
_SPELLED = (
  ("[¼-¾⅐-⅞]", r" \g<0>"),
  ("[²³¹⁰-⁹]+", r"^{\g<0>}"),
  ("[₀-₉]+", r"_{\g<0>}"),
  (r"(?<=\d)(?:\{,\}|\\[,!])(?=\d{3}(?!\d))", ","),
  (r"^-?\d{1,3}(?: \d{3})+$", lambda m: m[0].replace(" ", "")),
  (r"(?<!\\)\\[,;: ]|~", " "),
  (r"\\(?:text\w*|math(?:rm|bf)|mbox)\s*\{([^{}]*)\}", r" \1 "),
  (r"\\([$%])|\\[()\[\]]", r"\1"),
  # A dollar that closes has no space before it and no digit after it.
  (r"\${1,2}([^$]*[^\s$])\${1,2}(?!\d)", r"\1"),
  (r"(?<!\w)(\*{1,3}|_{1,3}|`{1,3})(?=\S)([^*_`]+)(?<=\S)\1(?!\w)", r"\2"),
  (r"\^\s*\{?\s*\\circ\s*\}?|\\degree", " degree "),
  (r"\\[dtc]?frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
  (r"\s*\(?(?:in )?base[ -](\d+)\)?$", r"_\1"),
  (r"\s(?=\s*\^)|^[A-Za-z] ?\\in\b", ""),
  (r"(?<=\d) ?x ?(?=10\^)", r"\\times "),
  (r"(?<![\\A-Za-z])(pi|ln|log|exp|sin|cos|tan)(?![A-Za-z])", r"\\\1 "),
  (r"(?<!\\)\binf(?:inity)?\b", r"\\infty "),
  (r"\\approx(?![a-z])", "="),
  (r"(?:√|\\?sqrt) ?\(([^()]*)\)", r"\\sqrt{\1}"),
  *((rf"(?i)^{w}\b", str(n)) for n, w in enumerate(_COUNTS.split("|"))),
)
_FRACTION = re.compile(r"(?<![\^}_])\\[dtc]?frac\{(-?[\d.,]+)\}\{([\d.,]+)\}")
_DIGITS = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_DIGITS += "(?:e[+-]?[0-9]{1,3})?"
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3}
_SCALES |= {"million": 10**6, "billion": 10**9, "trillion": 10**12}
# A time, a number in a base, or a number. A dash before one in prose is its
# sign unless something is left of it.
NUMBER = re.compile(
  r"(?<!\d)(?P<hour>[01]?[0-9]|2[0-4]):(?P<minute>[0-5][0-9])"
  r"(?:\s?(?P<half>[ap])\.?m)?"
  r"|(?:\b|\()(?P<digits>[0-9][0-9A-F]*)\)?_\{?(?P<base>[1-9][0-9]?)\}?"
  r"|(?<![\w.^/])(?<!\^\{)(?![0-9]{200})(?:(?<![0-9)]\s)(?<![\w)])(?P<sign>[+-])\s?)?"
  r"(?:(?:US)?(?P<currency>[$€£¥₹])\s?(?:(?P<inner>-)\s?)?)?"
  rf"(?:(?P<whole>[0-9]+)\s+(?=[0-9]+\s*/))?(?P<top>{_DIGITS})"
  rf"(?:\s*/\s*(?P<bottom>{_DIGITS}))?(?P<percent>\s*(?:%|percent\b))?"
  rf"(?:\s+(?P<scale>{'|'.join(_SCALES)})\b)?",
  re.I,
)
# A unit, and what else it is called, without s or es at the end.
_NAMES = """
  km kilometer kilometr, m meter metr, cm centimeter centimetr, mm millimeter,
  kg kilogram kilo, g gram, mg milligram, l liter litr, ml milliliter,
  h hour hr, min minut, s second sec, ft feet foot, in inch, yd yard, mi mil,
  lb pound £, oz ounc, m/s mp, mi/h mph, km/h kmh kph, dollar usd $, euro eur €,
  c celsiu, f fahrenheit, / per
"""
_CALLED = {
  other: names.split()[0]
  for names in _NAMES.split(",")
  for other in names.split()
}
_UNIT = re.compile(
  r"\s*((?:(?:sq|square|cubic)\b\.?\s?)?[A-Za-z]+"
  r"(?:\^\{?[23]\}?| [CF](?:elsius|ahrenheit)?\b)?"
  r"(?:\s*(?:/|\bper\b)\s*[A-Za-z]+(?:\^\{?[23]\}?)?)?)"
)
# Words that change the number that stands at the "#", or put it in doubt.
_WORDS = r"""
  not no never neither either nor none but except cannot \w+n['’]t false wrong
  incorrect fails? impossible unlike(?:ly)? doubt unsure if or maybe perhaps
  possibly might could.be too instead.of without.#
  (?:far|different|up|down).from anything than between less more fewer least
  most over under above below exceeds? near(?:ly)? close almost hardly barely
  approaching before.# after.# past.# half twice thrice double triple
  times(?!\s(?:an?|per|each)\b)\s\w+
  (?:square|cube|inverse|reciprocal|opposite|multiples?).of divisible minus
  negative plus divided multiplied squared cubed root power log pi sqrt until
  up.to \w+teen twenty thirty forty fifty
  (?:third|quarter|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand)th)s?
"""
_CHANGES = re.compile(
  r"[^A-Za-z\s,;:'’\"()?.#/^{}23-]|#\.*[\d^(]|#-?\s*\w*(?:fold|ish)\b"
  r"|(?<![A-Za-z'’#/])(?<!# )(?<!ree )(?<!per )(?<!sq )[B-HJ-Z](?![A-Za-z'’])"
  r"|#(?!(?:k?m?g|[cmk]?m|m?l|s|h|min|hrs?|lbs?|oz|ft|in|mph|kmh)(?![a-z]))\w"
  r"|#\s*(?:(?-i:[KMBT])|bn|mil|lakh|crore|ppm|factorial|st|nd|rd|to|till|and"
  r"|[xyznkei])\b"
  rf"|\b(?:{'|'.join(_WORDS.split())}|(?!one\b|zero)(?:{_COUNTS}))(?!\w)",
  re.I,
)
# A name, or a label or arithmetic without one, that is dropped before `=`.
_LABEL = re.compile(
  r"^(?:[A-Za-z](?:_\{?\w+\}?)?\s*|(?:(?![<>!=\\]|\b(?:half|twice|double|triple"
  r"|times)\b|(?<![A-Za-z])(?!(?:[ckm]m|kg|of)\b)[A-Za-z]{1,2}(?![A-Za-z])).)*)="
)
# A letter or a word that is marked as the choice, and no second one after it.
_CHOICE = re.compile(
  r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?:? )?"
  r"(?:[(\[]?([a-j])(?:(?:[)\]]|[.:?])(?= |$)|$| is (?:the )?correct\b)"
  r"(?!.*\bnot\b)"
  r"(?! (?:[+*/^=<>&|]|- |\\(?:cdot|times|div|pm|le|ge|ne|in)))"
  r"|((?:yes|true)\b(?!.*\bnot\b)|(?:no|false)\b)(?:[,.:;!]|$))"
  r"((?!.*(?:\([A-Z]\)|\b[A-Z]\)|\b(?:yes|no|true|false|or|maybe)\b)).*)",
  re.I,
)
_EXPLANATION = re.compile(r"[,.;:]?\s(?:because|since)\b.*")
# What is no formula: words, two numbers side by side, a base, a time, a date.
_PROSE = re.compile(
  r"(?<![\\A-Za-z{])(?!(?:and|or)(?![a-z]))(?:[A-Za-z]{3,}|to(?![A-Za-z]))"
  r"|(?<![\d_^])\d+\s+\d|\d_|\d:\d\d|\d{4}-\d\d-\d\d"
)
_MEASURE = re.compile(
  r"(?<=[\s}0-9])\s*\b(?:square |cubic )?(?:unit|degree"
  rf"|{'|'.join(name for name in _CALLED if name[1:].isalpha())})"
  r"e?s?(?:\^\{?[23]\}?)?$"
)


class Number(NamedTuple):
  """An exact value and what was written around it."""

  value: Fraction
  unit: str = ""
  kind: str = ""  # or "%", "base", "time"


@functools.lru_cache(4096)
def normalise(text: str) -> str:
  """The text as it would be typed: no typesetting and no emphasis."""
  text = " ".join(text.split())
  for written, plain in _SPELLED:
    text = re.sub(written, plain, text)
  text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
  text = " ".join(text.split())
  return text.strip(" *_`\"'“”‘’").rstrip(".;, ")


@functools.lru_cache(4096)
def parse_number(text: str, *, prose: bool = False) -> Number | None:
  """The one number that `text` states (in prose: words may come before it)."""
  found = _found(_LABEL.sub("", normalise(text)))
  if len(found) != 1 or (found[0].start() and not prose):
    return None
  changed = _CHANGES.search(NUMBER.sub("#", found[0].string))
  return None if changed else _number(found[0])


def numbers_in(text: str) -> list[Number]:
  """Every number that stands in running text, in order."""
  return [*filter(None, map(_number, _found(normalise(text))))]


def _found(text: str) -> list[re.Match]:
  return [*NUMBER.finditer(_FRACTION.sub(r" \1/\2", text).strip())]


def _number(match: re.Match) -> Number | None:
  if match["hour"]:
    hour, half = int(match["hour"]), (match["half"] or "").lower()
    half = {0: "a", 24: "a"}.get(hour, "p" if hour > 12 else half)
    return Number(Fraction(hour % 12 * 60 + int(match["minute"])), half, "time")
  try:
    if match["base"]:
      value = Fraction(int(match["digits"], int(match["base"])))
      return Number(value, "", "base")
    parts = (match[part] or "1" for part in ("top", "bottom"))
    top, bottom = (Fraction(part.replace(",", "")) for part in parts)
    value = int(match["whole"] or 0) + top / bottom
  except (ValueError, ZeroDivisionError):
    return None
  value *= _SCALES[match["scale"].lower()] if match["scale"] else 1
  unit = _UNIT.match(match.string, match.end())
  return Number(
    -value if "-" in (match["sign"], match["inner"]) else value,
    _CALLED.get(match["currency"]) or _one_name(unit[1] if unit else ""),
    "%" if match["percent"] else "",
  )


def _one_name(unit: str) -> str:
  unit = re.sub(r"\b(?:sq|square)\b\.? ?(\w+)", r"\1^2", unit.lower())
  unit = re.sub(r"\bcubic (\w+)", r"\1^3", unit)
  words = re.findall(r"[a-z]+|[^\s.{}]", unit)
  words = [w.rstrip("es") if len(w) > 2 else w for w in words]
  return "".join(_CALLED.get(word, word) for word in words)


def equal_numbers(a: Number, b: Number) -> bool:
  """By the three rules at the top."""
  if a.unit and b.unit and a.unit != b.unit:
    return False
  if {a.kind, b.kind} == {"", "%"}:
    percent, plain = (a, b) if a.kind else (b, a)
    return plain.value in (percent.value, percent.value / 100)
  return a.kind == b.kind and a.value == b.value


def exact_equal(gold: str, answer: str) -> bool | None:
  """True or False where that is certain; None: mathematics must decide."""
  gold, answer = (_EXPLANATION.sub("", normalise(t)) for t in (gold, answer))
  if gold.casefold() == answer.casefold():
    return True
  (letter, rest), (other, remark) = choice(gold), choice(answer)
  if letter and other and (letter != other or not (rest and remark)):
    return letter == other
  if rest or remark:
    return exact_equal(rest or gold, remark or answer)
  number, stated = parse_number(gold), parse_number(answer, prose=True)
  if number and stated and not ("=" in gold and "=" in answer):
    return equal_numbers(number, stated)
  prose = map(_PROSE.search, (formula(gold), formula(answer)))
  return False if any(prose) else None


def choice(text: str) -> tuple[str, str]:
  """(letter or yes, no, true, false; the text after it); empty: no choice."""
  match = _CHOICE.fullmatch(normalise(text))
  if match is None:
    return "", ""
  return (match[1] or match[2]).upper(), match[3].strip(" :-")


def formula(text: str) -> str:
  """The text without its explanation and unit, for math-verify."""
  return _MEASURE.sub("", _EXPLANATION.sub("", normalise(text)))
