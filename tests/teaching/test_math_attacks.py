"""math-verify evaluates no answer: what tries to run does not, nor is it right.

The processes are not locked here: what holds is math-verify's own reading.
"""

import contextlib
import dataclasses

import pytest

from atlas_jax.confined import Unanswered
from atlas_jax.teaching import verify
from atlas_jax.teaching.verify import VerifierPool

FREE = dataclasses.replace(verify.MATH, locked=False)
# MAKE is a Python expression that makes a directory, FILE the directory's name.
CODE = (
  "MAKE",
  "[MAKE]",
  "(MAKE,)",
  "{1: MAKE}",
  "x + MAKE",
  "5 + 0*MAKE",
  "(lambda: MAKE)()",
  "lambda: MAKE",
  "[MAKE for _ in (1,)]",
  "f'{MAKE}'",
  "'%s' % MAKE",
  "'{0.__class__}'.format(MAKE)",
  "MAKE if 1 else 5",
  "5 if MAKE else 5",
  "5 # MAKE",
  "5; MAKE",
  "5\nMAKE",
  "import os; MAKE",
  'exec("MAKE")',
  'eval("MAKE")',
  'compile("MAKE", "", "eval")',
  'sympify("MAKE")',
  'S("MAKE")',
  'N("MAKE")',
  'parse_expr("MAKE")',
  'lambdify(x, "MAKE")(1)',
  'Function("MAKE")(1)',
  'Symbol("MAKE")',
  "open('FILE', 'w')",
  "getattr(__import__('os'), 'mkdir')('FILE')",
  "__builtins__['__import__']('os').mkdir('FILE')",
  "().__class__.__base__.__subclasses__()",
  "x.__class__.__mro__[-1].__subclasses__()",
  "Symbol.__init__.__globals__['sys'].modules['os'].mkdir('FILE')",
  "preview(x, output='png', filename='FILE')",
  "\uff45\uff56\uff41\uff4c('MAKE')",
  "__import__('o\u017f').mkdir('FILE')",
)
# TEXT stands for each line of CODE.
FORMS = ("TEXT", r"\text{TEXT}", r"\frac{TEXT}{1}")
LATEX = (
  r"\input{FILE}",
  r"\include{FILE}",
  r"\write18{touch FILE}",
  r"\immediate\write18{touch FILE}",
  r"\openout1=FILE",
  r"\newwrite\f\openout\f=FILE",
  r"\catcode`\@=11 MAKE",
  r"\def\x{MAKE}\x",
  r"\directlua{os.execute('touch FILE')}",
  r"\csname MAKE\endcsname",
  r"\operatorname{MAKE}(5)",
  r"\mathrm{exec}(\text{MAKE})",
  r"\boxed{\boxed{MAKE}}",
  r"\begin{cases} MAKE \end{cases}",
  r"\begin{pmatrix} MAKE \\ 5 \end{pmatrix}",
  r"\sqrt[MAKE]{5}",
  r"\sum_{i=MAKE}^{5} i",
  r"\int_{MAKE}^{5} x dx",
  r"\lim_{x \to MAKE} x",
  r"x_{MAKE}",
  r"5^{MAKE}",
  r"\{MAKE\}",
  r"\left(MAKE\right)",
  r"\url{file://FILE}",
)


def attacks():
  yield from LATEX
  for text in CODE:
    for form in FORMS:
      yield form.replace("TEXT", text)


@pytest.fixture(scope="module")
def pool():
  with contextlib.closing(VerifierPool(processes=1, deadline_s=3.0)) as pool:
    yield pool


def test_there_are_many_and_all_differ():
  assert len(set(attacks())) == len(list(attacks())) == 135


@pytest.mark.parametrize("gold", ["7", r"\frac{x}{3}"])
def test_no_answer_is_run(pool, tmp_path, gold):
  marker = tmp_path / "made"
  make = f"__import__('os').mkdir('{marker}')"
  for attack in attacks():
    answer = attack.replace("MAKE", make).replace("FILE", str(marker))
    try:
      right = pool.ask(FREE, gold, answer)
    except Unanswered:
      right = False
    assert not right, answer
    assert not marker.exists(), answer
  assert pool.ask(FREE, gold, gold)
