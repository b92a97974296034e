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
COUNTS = "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_DRESS = r"text\w*|math(?:rm|bf)|mbox|bold\w+|underline|f?box(?:ed)?"
# (what is written, what stands for it), in this order.
_SPELLED = (
  (r"~~[^~]*~~", ""),
  ("[¼-¾⅐-⅞①-⑳]", r" \g<0>"),
  ("[⁻²³¹⁰-⁹]+", r"^{\g<0>}"),
  ("[₀-₉]+", r"_{\g<0>}"),
  (r"[٠-９](?<=\d)", lambda m: str(int(m[0]))),
  (r"(?<=\d)(?:\{,\}|\\[,!]|['’])(?=\d{3}(?!\d))", ","),
  (r"^-?\d{1,3}(?: \d{3})+$", lambda m: m[0].replace(" ", "")),
  (r"(?<!\\)\\(?:[,;: ]|(?:q?quad|large|bf|rm|therefore)(?![a-z]))|~", " "),
  (r"<(b|i|u|em|strong|mark|span|p)\b[^<>]*>([^<]*)</\1>", r"\2"),
  (rf"\\(?:{_DRESS})\s*\{{([^{{}}]*)\}}", r" \1 "),
  (r"\\([$%])|\\[()\[\]]", r"\1"),
  # A dollar that closes has no space before it and no digit after it.
  (r"\${1,2}([^$]*[^\s$])\${1,2}(?!\d)", r"\1"),
  (r"(?<!\w)(\*{1,3}|_{1,3}|`{1,3})(?=\S)([^*_`]+)(?<=\S)\1(?!\w)", r"\2"),
  (r"\^\s*\{?\s*\\circ\s*\}?|\\degree", " degree "),
  (r"\\nicefrac|\\[dtcs]frac", r"\\frac"),
  (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
  (r"\s*\(?(?:in )?base[ -](\d+)\)?$", r"_\1"),
  (r"\s(?=\s*\^)|^[A-Za-z] ?\\in\b", ""),
  (r"\^[-−](\d+)", r"^{-\1}"),
  (r"(?<=\d) ?x ?(?=10\^)", r"\\times "),
  (r"(?<![\\A-Za-z])(pi|ln|log|exp|sin|cos|tan|gcd|lcm)(?![A-Za-z])", r"\\\1 "),
  (r"(?<!\\)\binf(?:inity)?\b", r"\\infty "),
  (r"\\approx(?![a-z])", "="),
  (r"(?:√|\\?sqrt) ?\(([^()]*)\)", r"\\sqrt{\1}"),
  *((rf"(?i)^{w}\b", str(n)) for n, w in enumerate(COUNTS.split("|"))),
  (r"(?i)^(?:minus|negative) (?=\d)", "-"),
  (r"(?<=:\d\d) in the morning\b", " am"),
  (r"(?<=:\d\d) (?:in the (?:afternoon|evening)|noon)\b", " pm"),
  (r"\b[sS]q(?:uare)?\b\.? (?!of\b|root)(\w+)", r"\1^2"),
  (r"\b[cC]ubic (\w+)", r"\1^3"),
  (r"^['‘](.*)['’]\.?$", r"\1"),
)
_SPELLED = [(re.compile(written), plain) for written, plain in _SPELLED]
FRACTION = re.compile(r"(?<![\^}_])\\[dtc]?frac\{(-?[\d.,]+)\}\{([\d.,]+)\}")
_DIGITS = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_DIGITS += "(?:e[+-]?[0-9]{1,3})?"
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3}
_SCALES |= {"million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALES = "|".join(_SCALES)
# A time, a number in a base, or a number. A dash before one in prose is its
# sign unless something is left of it.
NUMBER = re.compile(
  r"(?<!\d)(?P<hour>[01]?[0-9]|2[0-4]):(?P<minute>[0-5][0-9])"
  r"(?:\s?(?P<half>[ap])\.?m)?"
  r"|(?:\b|\()(?P<digits>[0-9][0-9A-F]*|[A-F][0-9A-F]+)\)?_\{?\s?"
  r"(?P<base>[1-9][0-9]?)\}?"
  r"|(?<![\w.^/])(?<!\^\{)(?![0-9]{200})"
  r"(?:(?<![0-9)]\s)(?<![\w)])(?P<sign>[+-])\s?)?"
  r"(?:(?:US)?(?P<currency>[$¢-¥₠-⃀])\s?(?:(?P<inner>-)\s?)?)?"
  rf"(?:(?P<whole>[0-9]+)\s+(?=[0-9]+\s*/))?(?P<top>{_DIGITS})"
  rf"(?:\s*/\s*(?P<bottom>{_DIGITS}))?(?P<percent>\s*(?:%|percent\b))?"
  rf"(?:[\s-]+(?P<scale>{SCALES})s?\b)?",
  re.I,
)
# A unit, and what else it is called.
_NAMES = """
  km kilometer kilometre, m meter metre, cm centimeter centimetre,
  mm millimeter, kg kilogram kilo, g gram, mg milligram, l liter litre,
  ml milliliter, h hour hr, min minute, s second sec, ft feet foot, in inch,
  yd yard, mi mile, lb pound £, oz ounce, gal gallon, m/s mps, mi/h mph,
  km/h kmh kph, mi/gal mpg, dollar usd $, euro eur €, cent ¢, yen ¥, rupee ₹,
  c celsius, f fahrenheit, n newton, j joule, w watt, v volt, a amp, hz hertz,
  degree, unit, / per
"""
_CALLED = {
  other.rstrip("es") if len(other) > 2 else other: names.split()[0]
  for names in _NAMES.split(",")
  for other in names.split()
}
_ONE = r"(?:degrees? )?(?:[A-Za-z]+|[$¢-¥₠-⃀])(?:\^?\{?[23]\}?)?"
_UNIT = re.compile(rf"\s*({_ONE}(?:\s*(?:/|\bper\b)\s*{_ONE})?)")
# Words that change the number that stands at the "#", or put it in doubt.
_WORDS = r"""
  not no never neither either nor none but except cannot \w+n['’]t false wrong
  incorrect fails? impossible un(?:like(?:ly)?|sure|true|clear|known|til) doubt
  if or maybe perhaps possibly might (?:could|may|can).be too instead.of
  without.# exclud\w+.# reject.# avoid.# eliminate.# besides.# ruled.out
  a.mistake invalid inaccurate nope within at.(?:best|worst) as.(?:few|many).as
  (?:far|different|up|down|apart|aside).from anything than between less more
  fewer least most over under above below beyond near(?:ly)? close almost
  exceed\w* hardly barely approaching before.# after.# past.# up.to
  (?:max|min)imum.of (?:up|on)wards?
  (?:shy|short|opposite|complement|multiples?).of
  half halves halved twice thrice doubled? tripled? quadrupled? squared cubed
  times(?!\s(?:an?|per|each)\b)\s\w+ repeating recurring
  (?:square|cube|(?:co)?sine|factorial|absolute.value|inverse|reciprocal).of
  logarithm.of divisible minus negative plus divided multiplied root power log
  sqrt pi tau theta alpha factorial hex\w* binary per.?mille
  \w+(?:teen|illion)(?:ths?)?
  (?:twen|thir|for|fif|six|seven|eigh|nine)t(?:y|ieths?) (?:third|quarter)s?
  (?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|hundred|thousand)ths?
"""
CHANGING = "|".join(_WORDS.split())
_CHANGES = re.compile(
  # Signs; a letter that stands alone; what is no word behind the number.
  r"[^A-Za-z\s,;:'’\"()?.#/^{}¢-¥₠-⃀23-]|-[ (]*#|[A-LN-Z]\d|#\.*[\d^(]"
  r"|#.*remainder|#['’]s"
  r"|(?<![a-z'’#/])(?<!# )(?<!ree )(?<!per )[b-hj-z](?![a-z'’])"
  r"|#(?!\s?(?:k?m?g|[ckm]?m|m?l|s|h|min|hrs?|lbs?|oz|ft|in|mph|kmh)(?![a-z])"
  r"|\s(?:[a-z]{3,}|[acfjnvw]|an|of|is|at|as|on|by|we|he|it|so|mi|yd|[ap]m"
  r"|(?-i:[kMGm]?(?:Hz|Pa|[NJWVAB])|dB|cc|dl)|o.clock)\b)\s?[a-z]"
  r"|#\s?(?-i:[KMGBT])\b"
  r"|#.(?:fold|ish|free|gross|mil|mln|bil|lakh|crore|ppm|bps|max"
  r"|(?:max|min)imum|score|till|and|excluded)\b"
  rf"|\b(?:{CHANGING}|(?!one\b|zero)(?:{COUNTS}))(?!\w)",
  re.I,
)
# What is dropped before "=": a name, words that name a number, arithmetic.
_NO_CHANGE = rf"(?!(?i:.*\b(?:{CHANGING})\b))"
_LABEL = re.compile(
  r"^(?:[A-Za-z](?:_\{?\w+\}?)?|[A-Z]{2,3}|m?\\angle ?[A-Z]{1,3}"
  r"|[A-Za-z]+(?:_[A-Za-z]+)+|(?:LCM|GCD|HCF)\([\d, ]+\)"
  rf"|{_NO_CHANGE}"
  r"(?:(?:[A-Za-z]{3,}|of|in|[ckm]m|kg|(?<=[a-z] )\d+)\b(?:['’]s\b)?[\s()]*)+"
  rf"|{_NO_CHANGE}(?:[A-Za-z]{{3,}}[\s:,]+|of |in )*"
  r"(?=[^=]*\d[^=\d]+\d)(?:[$\d.,%()\s+*/-]|(?<=[\d)%] )"
  r"(?:(?:x|of)(?= [$\d])|[A-Za-z]{3,}(?: [A-Za-z]{3,})*|[ckm]m|kg)\b)+)?\s*="
)
# A letter or a word that is marked as the choice, and no second one after it.
_CHOICE = re.compile(
  r"(?:(?:the|final|correct|answer|option|choice|letter|is|i choose)\b:?\s)*"
  r"(?:[(\[]?([a-j])(?:[)\].:?]+(?= |$)|$|(?= —)"
  r"| is (?:the )?(?:correct|right)\b)"
  r"(?!(?:.*\b[A-Z]\)?)? (?:is )?(?:not|incorrect|wrong|false)\b)"
  r"(?! (?:[+*/^=<>&|]|- |\\(?:cdot|times|div|pm|le|ge|ne|in)))"
  r"|((?:yes|true)\b(?!.*(?:\bnot|\bnever|n['’]t)\b)|(?:no|false)\b)"
  r"(?:[,.:;!?]|$| [-—])(?!.*\b(?:yes|no|true|false|or|maybe)\b))"
  r"((?!.*(?:\([A-Z]\)|\b[A-Z]\))|(?:.*,)?\W*[A-J]$).*)",
  re.I,
)
_EXPLANATION = re.compile(r"[,.;:]?\s(?:because|since)\b.*")
# What is no formula: words, two numbers side by side, a base, a time, a date.
_PROSE = re.compile(
  r"(?<![\\A-Za-z{])(?!(?:and|or)(?![a-z]))(?:[A-Za-z]{3,}|to(?![A-Za-z]))"
  r"|(?<![\d_^])\d+\s+\d|\d_|\d:\d\d|\d{4}-\d\d-\d\d|\d'|\\[hv]?phantom|^[_^]"
)
_MEASURE = re.compile(
  rf"(?<=[\s}}0-9])\s*\b((?:{'|'.join(n for n in _CALLED if n[1:].isalpha())})"
  r"[es]*(?:\^\{?[23]\}?)?)$"
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
    text = written.sub(plain, text)
  text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
  text = " ".join(text.split())
  return text.strip(' *`"“”«»•→⇒∴').rstrip(".;, \\")


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
  return [*NUMBER.finditer(FRACTION.sub(r" \1/\2", text).strip())]


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
    _one_name(match["currency"] or (unit[1] if unit else "")),
    "%" if match["percent"] else "",
  )


def _one_name(unit: str) -> str:
  words = re.findall(r"[a-z]+|[^\s.{}^]", unit.lower())
  words = [w.rstrip("es") if len(w) > 2 else w for w in words]
  return "".join(_CALLED.get(word, word) for word in words)


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
  if not (number and stated) or ("=" in gold and "=" in answer):
    units = {_one_name(m[1]) for m in map(_MEASURE.search, (gold, answer)) if m}
    prose = map(_PROSE.search, (formula(gold), formula(answer)))
    return False if any(prose) or len(units) > 1 else None
  if len({number.unit, stated.unit, ""}) > 2:
    return False
  percent, plain = (number, stated) if number.kind else (stated, number)
  if (percent.kind, plain.kind) == ("%", ""):
    return plain.value in (percent.value, percent.value / 100)
  return (number.kind, number.value) == (stated.kind, stated.value)


def choice(text: str) -> tuple[str, str]:
  """(letter or yes, no, true, false; the text after it); empty: no choice."""
  match = _CHOICE.fullmatch(normalise(text))
  if match is None:
    return "", ""
  return (match[1] or match[2]).upper(), match[3].strip(" :-")


def formula(text: str) -> str:
  """The text without its explanation and unit, for math-verify."""
  return _MEASURE.sub("", _EXPLANATION.sub("", normalise(text)))
