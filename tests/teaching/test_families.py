"""reasoning-gym: each family is decided, judged truly, and evaluates nothing.

The attacks run in processes without the lock: what stops them here is the
choice of families and the grammar alone.
"""

import ast
import contextlib
import dataclasses
import functools
import inspect
import sys
import textwrap
import types

import pytest
import reasoning_gym
from reasoning_gym.factory import DATASETS

from atlas_jax.confined import Unanswered
from atlas_jax.data.problems import Problem
from atlas_jax.teaching import families, verify
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.verify import VerifierPool

USABLE = sorted(families.usable())
PLAIN = set(USABLE) - set(families.OURS) - set(families.GRAMMAR)
ENTRIES = 4
# What evaluates or reaches out, by any name it has in a scorer's code.
EVALUATES = {
  *("eval", "exec", "compile", "__import__", "import_module", "globals"),
  *("sympify", "parse_expr", "parse_latex", "lambdify", "simplify", "S"),
  *("literal_eval", "getattr", "setattr", "open", "system", "Popen", "pickle"),
  *("subprocess", "os", "sys", "importlib", "builtins", "yaml", "marshal"),
}


@functools.cache
def entries(family):
  made = reasoning_gym.create_dataset(family, size=ENTRIES, seed=11)
  return [made[i] for i in range(ENTRIES)]


@pytest.fixture(scope="module")
def checker():
  with AnswerChecker(processes=1, deadline_s=20.0) as checker:
    yield checker


@pytest.fixture(scope="module")
def unlocked():
  """Asks a process that may do all that a scorer could."""
  job = dataclasses.replace(verify.REASONING_GYM, locked=False)
  with contextlib.closing(VerifierPool(processes=1, deadline_s=5.0)) as pool:
    yield functools.partial(pool.ask, job)


def test_every_family_is_decided_once():
  groups = (PLAIN, families.OURS, families.GRAMMAR, families.REFUSED)
  named = [name for group in groups for name in group]
  assert sorted(named) == sorted(DATASETS) and len(DATASETS) == 106
  assert len(USABLE) == 98
  needed = (
    "chain_sum letter_counting number_sequence family_relationships countdown"
    " simple_integration polynomial_multiplication"
  )
  assert set(USABLE).issuperset(needed.split())


@pytest.mark.parametrize("family", USABLE)
def test_own_answers_are_right_and_others_wrong(checker, family):
  made = entries(family)
  for entry in made:
    own = entry["answer"]
    assert isinstance(own, str) and own
    assert checker._pool.ask(verify.REASONING_GYM, family, entry, own)
    problem = Problem(
      "id",
      entry["question"],
      own,
      "reasoning_gym",
      {"task": family, "entry": entry},
    )

    def status(answer, problem=problem):
      text = f"<solution>{answer}</solution>"
      return checker.check(problem, text, "stop").status

    assert status(own) == "correct"
    others = {e["answer"] for e in made if e["answer"].strip() != own.strip()}
    if family == "n_queens":
      others -= set(entry["metadata"]["valid_answers"])
    for wrong in ("zzz", "None", "nan", *others):
      if wrong != own:
        assert status(wrong) == "wrong", (own, wrong)


@pytest.mark.parametrize(
  "family, question, answer, right",
  [
    ("countdown", {"numbers": [3, 5, 2], "target": 16}, "(3 + 5) * 2", True),
    ("countdown", {"numbers": [3, 5, 2], "target": 16}, "(5+3)*2/1", False),
    ("countdown", {"numbers": [2, 4], "target": 16}, "2**4", False),
    ("simple_integration", "2*x", "x**2 + C", True),
    ("simple_integration", "2*x", "7 + x*x", True),
    ("simple_integration", "2*x", "x**3", False),
    ("simple_integration", "x**(1/2)", "2*x**(3/2)/3", True),
    ("intermediate_integration", "exp(2*x)", "E**(2*x)/2 + C", True),
    ("intermediate_integration", "sin(x)*cos(x)", "sin(x)**2/2", True),
    ("intermediate_integration", "1/x", "log(Abs(x))", False),
    ("intermediate_integration", "1/(1 + x**2)", "atan(x) + pi", True),
  ],
)
def test_what_the_grammar_lets_through_is_judged(
  family, question, answer, right
):
  if isinstance(question, str):
    question = {"integrand": question, "variable": "x"}
  entry = {"answer": "unused", "metadata": question}
  assert families.right(family, entry, answer) is right


def test_what_our_own_reading_takes():
  assert families.right("coin_flip", {"answer": "0.109375"}, "0.1094")
  assert families.right("coin_flip", {"answer": "0.109375"}, "7/64")
  assert families.right("gsm_symbolic", {"answer": "18.0"}, "$18")
  assert not families.right("coin_flip", {"answer": "0.5"}, "about half")


@pytest.mark.parametrize(
  "family, changes, wrong",
  [
    # Every one of these has the full score, or 0.99 of it, there.
    ("complex_arithmetic", {}, "nan"),
    ("game_of_life_halting", {"answer": "True"}, "False"),
    ("number_sorting", {"answer": "['1', '2']"}, "[NaN, NaN]"),
    ("number_sorting", {"answer": "['1', '2']"}, "[1, 2.5]"),
    ("polynomial_equations", {"answer": ""}, "none"),
    ("spell_backward", {"answer": "abcdef"}, "abcdefg"),
    ("spell_backward", {"answer": "abcdef"}, "abcdef or 7"),
    ("coin_flip", {"answer": "0.109375"}, "0"),
    ("coin_flip", {"answer": "0.9375"}, "0.9"),
    ("gsm_symbolic", {"answer": "18"}, "-18"),
    ("gsm_symbolic", {"answer": "18"}, "18 or 19"),
  ],
)
def test_wrong_answers_that_their_scorers_take(family, changes, wrong):
  entry = {**entries(family)[0], **changes}
  assert families._scorer(family)(wrong, entry) >= 0.99
  assert not families.right(family, entry, wrong)


def test_numbers_are_sorted_in_any_spelling():
  entry = {"answer": "['-1.5', '2', '10.0']"}
  for answer in ("[-1.5, 2, 10.0]", "['-1.5', '2', '10']", '["-1.50",2,10]'):
    assert families.right("number_sorting", entry, answer)
  for answer in ("[2, -1.5, 10]", "[-1.5, 2]", "[1.5, 2, 10]", "[]", "[[[["):
    assert not families.right("number_sorting", entry, answer)


@pytest.mark.parametrize("family", sorted(families.REFUSED))
def test_refused_families_say_why(family):
  assert families.REFUSED[family] in families.refusal(family)
  with pytest.raises(ValueError, match="read its scorer and list it in"):
    families.right(family, {"answer": "1", "metadata": {}}, "1")


def test_another_release_and_an_unread_family_are_refused(monkeypatch):
  assert "its scorer was not read" in families.refusal("new_family")
  assert "chain_sum" in families.refusal("new_family")
  assert families.refusal("chain_sum") == ""
  monkeypatch.setattr(families.importlib.metadata, "version", lambda _: "0.2")
  for family in ("chain_sum", "new_family"):
    why = families.refusal(family)
    assert "reasoning-gym 0.2 is installed" in why and "\n" not in why
    assert "atlas_jax/teaching/families.py" in why


def reached_names(dataset):
  """Every name in a scorer's code and in what it calls of reasoning-gym."""
  names, seen, todo = set(), set(), [dataset.score_answer]
  while todo:
    thing = inspect.unwrap(todo.pop())
    module = getattr(thing, "__module__", "") or ""
    if thing in seen or not module.startswith("reasoning_gym"):
      continue
    seen.add(thing)
    scope = vars(sys.modules[module])
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(thing)))):
      match node:
        case ast.Name(id=name):
          names.add(name)
          found = [scope[name]] if name in scope else []
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
          names.add(name)
          at = dataset if owner in ("self", "cls") else scope.get(owner)
          found = [getattr(at, name, None)]
        case ast.Attribute(attr=name):
          names.add(name)
          found = []
        case ast.Import() | ast.ImportFrom():
          names |= {part for a in node.names for part in a.name.split(".")}
          found = []
        case _:
          found = []
      for it in found:
        if isinstance(it, types.ModuleType):
          names.add(it.__name__)
        elif isinstance(it, (types.FunctionType, types.MethodType, type)):
          todo.append(it)
  return names


def test_no_plain_scorer_evaluates():
  found = {f: reached_names(DATASETS[f][0]) & EVALUATES for f in USABLE}
  assert not {f: found[f] for f in PLAIN if found[f]}
  # The search does find it where it is known to be.
  for family in ("binary_matrix", "bitwise_arithmetic", "n_queens"):
    assert "eval" in found[family]
  assert "parse_expr" in found["countdown"]
  assert "eval" in found["number_sorting"]


def attacks(marker):
  make = f"__import__('os').mkdir({marker!r})"
  latin_s, wide_e = "\u017f", "\uff45"
  return [
    make,
    f"[{make}]",
    f"{{{make!r}: {make}}}",
    f"(lambda: {make})()",
    f"[{make} for _ in [1]]",
    f"f'{{{make}}}'",
    f"exec({make!r})",
    f"eval({make!r})",
    f"{wide_e}val({make!r})",
    f"__import__('o{latin_s}').mkdir({marker!r})",
    f"getattr(__import__('os'), 'mk' + 'dir')({marker!r})",
    f"open({marker!r}, 'w')",
    f"x*0 + {make}",
    f"1 + 1 if {make} else 2",
    f"(y := {make})",
    f"sympify({make!r})",
    f"S({make!r})",
    f"N({make!r})",
    f"parse_expr({make!r})",
    f"lambdify(x, {make!r})(1)",
    f"Symbol.__init__.__globals__['sys'].modules['os'].mkdir({marker!r})",
    f"x.__class__.__mro__[-1].__subclasses__() or {make}",
    f"().__class__.__base__.__subclasses__()[0]({make})",
    f"print({make})",
    f"preview(x, output='png', filename={marker!r})",
    f"'{{0.__class__}}'.format({make})",
    f"{make} # 1",
    f"1\n{make}",
    f"\\input{{{marker}}}",
    f'{{"a": "{make}"}}',
    "9**9**9**9",
    "(((9**99)**99)**99)**99",
    "factorial(9**9)",
    "10**1000000000",
    "(" * 2000 + "1" + ")" * 2000,
    "[" * 2000 + "]" * 2000,
    "-" * 3000 + "1",
    "x" + "**2" * 1000,
    "\x00",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
  ]


@pytest.mark.parametrize("family", USABLE)
def test_no_answer_runs(unlocked, tmp_path, family):
  marker = tmp_path / "made"
  for entry in entries(family)[:2]:
    for attack in attacks(str(marker)):
      try:
        right = unlocked(family, entry, attack)
      except Unanswered:
        right = False
      assert not right, attack
      assert not marker.exists(), attack
  # The process that judged them still judges.
  assert unlocked(family, entry, entry["answer"])


@pytest.mark.parametrize(
  "family, key",
  [
    ("simple_integration", "integrand"),
    ("intermediate_integration", "integrand"),
    ("bitwise_arithmetic", "problem"),
    ("polynomial_multiplication", "answer"),
    ("number_sorting", "answer"),
  ],
)
def test_no_entry_runs(unlocked, tmp_path, family, key):
  marker, entry = tmp_path / "made", entries(family)[0]
  for attack in attacks(str(marker)):
    if key == "answer":
      false = {**entry, "answer": attack}
    else:
      false = {**entry, "metadata": {**entry["metadata"], key: attack}}
    right = unlocked(family, false, "x")
    assert not right and not marker.exists(), attack
