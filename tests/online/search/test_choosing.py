"""Which prompts are kept: by fresh samples, the floor, and the test split."""

import contextlib
import dataclasses

import pytest
from aiohttp import web

from atlas_jax.online.search import choosing, comparing, optimize, report
from atlas_jax.online.search.files import Candidate
from tests.online import small_world
from tests.online.opened_run import evaluated, opened
from tests.online.stub_server import StubServer

ZERO = "so <solution>0</solution>"
# Of a problem: all but the efficiency, alone 7 words and taught 2.
RIGHT, WRONG = (1.5 + 0.1 * 5 / 7) / 1.6, 0.5 / 1.6


def failing():
  return web.Response(status=400)


def world(*helpful, teach=None, guided=None):
  """Candidate i's teaching says 'carry' to every student if it is helpful.

  teach(i, a), guided(prompt, a): what is said in place of that to a question
  whose first number is a; None: nothing else.
  """

  def answer(messages):
    prompt = messages[0]["content"]
    a = int(prompt.split("+")[0].split()[-1])
    said = None
    if prompt.startswith("TEACH"):
      name = prompt.split()[1]
      said = teach and teach(name, a)
      hint = "carry" if name in map(str, helpful) else f"think {name}"
      return said or f"<teaching>{hint}</teaching>"
    if prompt.startswith("GUIDED") and guided:
      said = guided(prompt, a)
    return small_world.student(prompt) if said is None else said

  return answer


def breaking(*helpful):
  """Candidate 1 fixes the half that is odd, and breaks a quarter."""

  def guided(prompt, a):
    if "break" in prompt:
      return f"so <solution>{2 * a + 100 + (a % 4 == 0)}</solution>"
    return None

  def teach(name, a):
    return "<teaching>break</teaching>" if name == "1" else None

  return world(*helpful, teach=teach, guided=guided)


def fixing(where):
  """Candidate 1 helps with the questions for which `where` holds."""

  def teach(name, a):
    helps = name == "1" and where(a)
    return "<teaching>carry</teaching>" if helps else None

  return world(teach=teach)


def silent(where, how=lambda: ""):
  """As world(1), but under its teaching the student gives this reply to the
  questions for which `where` holds."""

  def guided(prompt, a):
    return how() if "carry" in prompt and where(a) else None

  return world(1, guided=guided)


@contextlib.contextmanager
def contest(folder, answer, scores=(0.5, 0.9), **changes):
  """A run whose journal holds a seed and candidates 'TEACH i ...'."""
  changes = {"student__retries": 0, "teacher__retries": 0} | changes
  with (
    StubServer(answer) as stub,
    opened(folder, stub.url, **changes) as run,
  ):
    for i, score in enumerate(scores):
      prompts = run.config.prompts
      if i:
        template = f"TEACH {i} {{question}} {{probe}}"
        prompts = dataclasses.replace(prompts, teacher=template)
      scores_of = {p.id: score for p in run.sets.validation}
      run.journal.candidates.append(
        Candidate(i, (0,) * bool(i), i, prompts, score, scores_of, 0, 0, 0.0)
      )
    yield run, stub


def choose(run):
  c = run.config
  fresh, dropped = choosing.score_again(run.rollouts, run.sets)
  best = choosing.pick(fresh, c.choosing.non_degradation_floor)
  test = comparing.compare(run.rollouts, run.sets, best.candidate)
  return choosing.decide(c, fresh, dropped, best, *test)


def told(run, choice, costs=()) -> str:
  return report.markdown(choice, run.journal.candidates, "done", costs)


def arms_of(choice, key) -> list:
  return [arm[key] for arm in choice.evaluation["arms"]]


def test_the_best_of_the_fresh_samples_is_kept(tmp_path):
  # On validation 1 seemed best, by luck.
  scores = (0.05, 0.9, 0.8, 0.1)
  with contest(tmp_path, world(2), scores) as (run, stub):
    choice = choose(run)
    calls = len(stub.calls)
  # 10 validation problems: baseline, probe, 2 for each of seed and 3 others.
  assert calls == 10 * (2 + 2 * 4) + 40 * (2 + 2 * 2)
  assert [f.candidate for f in choice.fresh] == [0, 1, 2, 3]
  assert choice.kept == choice.best == 2
  assert choice.reasons == () and choice.proven
  # Half are odd and are fixed; right ones save 5 of 7 tokens.
  assert choice.fresh[1].fresh_score == pytest.approx((RIGHT + WRONG) / 2)
  assert choice.fresh[2].fresh_score == pytest.approx(RIGHT)
  assert choice.fresh[2].gap == pytest.approx(0.8 - RIGHT)
  assert choice.accuracy_gain.estimate == 0.5
  # 20 of 40 flip, all to the good.
  assert choice.pairs == 40
  assert choice.mcnemar_p == pytest.approx(2 * 0.5**20)
  names = ["student alone", "seed prompts", "candidate 2"]
  assert arms_of(choice, "name") == names
  assert arms_of(choice, "accuracy") == [0.5, 0.5, 1.0]
  assert choice.test_score == pytest.approx(RIGHT)
  text = told(run, choice)
  for part in ("Few pairs", "shown", "+50.0", "TEACH 2", "student alone"):
    assert part in text
  assert f"0.8000 - {RIGHT:.4f} = {0.8 - RIGHT:+.4f}" in text
  assert "student alone 0, seed prompts 0, candidate 2 0." in text


BOTH = (
  " could be judged under {} and the seed prompts, {} under the seed prompts"
)
TEST = "only {} of 40 test problems" + BOTH.format("the chosen prompts", "{}")


@pytest.mark.parametrize(
  ("answer", "scores", "changes", "kept", "reasons"),
  [
    (world(), (0.5, 0.9), {}, 0, ["no candidate scored above"]),
    # On validation and on the test split: 0, 4, 8 of ten are broken.
    (breaking(), (0.5, 0.9), {}, 0, ["1, 70.0%", "prompts, 75.0%"]),
    (breaking(), (0.5, 0.9), {"choosing__non_degradation_floor": 0.0}, 1, []),
    # One that meets the floor goes before a better one.
    (
      breaking(2),
      (0.5, 0.9, 0.8),
      {"objectives__non_degradation": 0.0, "objectives__efficiency": 0.0},
      *(2, []),
    ),
    (
      fixing(lambda a: a in (2001, 3001)),
      (0.5, 0.9),
      {"choosing__require_proof": True},
      *(0, ["require_proof"]),
    ),
    (fixing(lambda a: a < 3000), (0.5, 0.9), {}, 0, ["score no more"]),
    # Where it answers it is right; it is silent on the half that was right.
    (silent(lambda a: a % 2 == 0), (0.5, 0.9), {}, 0, ["no candidate"]),
    # Models fail more often under it.
    (
      silent(lambda a: a >= 3000 and a % 10 == 0, failing),
      *((0.5, 0.9), {}, 0, [TEST.format(36, 40)]),
    ),
    (
      silent(lambda a: a >= 3000, failing),
      *((0.5, 0.9), {}, 0, [TEST.format(0, 40)]),
    ),
    (
      silent(lambda a: 2000 <= a < 2006, failing),
      *((0.5, 0.9), {}, 0),
      [
        "no candidate that could be compared scored above",
        "only 4 of 10 samples of the validation problems"
        + BOTH.format("candidate 1", 10),
      ],
    ),
    # The same 6 of 40 fail under both: 34 are below 90%.
    (
      world(1, guided=lambda _, a: failing() if 3000 <= a < 3006 else None),
      *((0.5, 0.9), {}, 0, [TEST.format(34, 34)]),
    ),
  ],
)
def test_what_keeps_the_seed(tmp_path, answer, scores, changes, kept, reasons):
  with contest(tmp_path, answer, scores, **changes) as (run, _):
    choice = choose(run)
  assert choice.kept == kept
  assert len(choice.reasons) == len(reasons)
  for why, words in zip(choice.reasons, reasons, strict=True):
    assert words in why
  assert told(run, choice)


def test_a_contest_without_a_winner_has_two_arms(tmp_path):
  with contest(tmp_path, world()) as (run, stub):
    choice = choose(run)
    calls = len(stub.calls)
  # There is nothing to compare on the test split but the student alone.
  assert calls == 10 * (2 + 2 * 2) + 40 * (2 + 2)
  assert arms_of(choice, "name") == ["student alone", "seed prompts"]
  assert not choice.proven and choice.score_gain is choice.harm is None


def test_a_candidate_that_falls_silent_is_wrong_there(tmp_path):
  with contest(tmp_path, silent(lambda a: a % 2 == 0)) as (run, _):
    choice = choose(run)
  _, fresh = choice.fresh
  assert (fresh.accuracy, fresh.non_degradation) == (0.5, 0.5)
  assert fresh.pairs == 10 and arms_of(choice, "unjudged") == [0, 0]


def test_all_arms_are_of_the_problems_that_all_have(tmp_path):
  answer = silent(lambda a: a >= 3000 and a % 10 == 0, failing)
  with contest(tmp_path, answer) as (run, _):
    choice = choose(run)
  # 16 of the 36 were right alone.
  assert arms_of(choice, "problems") == [36] * 3 and choice.pairs == 36
  assert arms_of(choice, "unjudged") == [0, 0, 4]
  assert arms_of(choice, "accuracy") == [16 / 36, 16 / 36, 1.0]
  text = told(run, choice)
  assert "Compared on the 36 problems that all were judged on." in text
  assert "candidate 1 4." in text


def test_each_is_compared_on_its_own_problems(tmp_path):
  """One that was judged on few is dropped, and costs the others nothing."""

  def teach(name, a):
    return failing() if name == "2" and 2000 <= a < 2006 else None

  answer = world(1, 2, teach=teach)
  with contest(tmp_path, answer, (0.5, 0.8, 0.9)) as (run, _):
    choice = choose(run)
  assert [f.candidate for f in choice.fresh] == [0, 1]
  assert [f.pairs for f in choice.fresh] == [10, 10]
  assert choice.kept == 1 and choice.reasons == ()
  (why,) = choice.dropped
  assert "only 4 of 10 samples" in why and "under candidate 2" in why


def test_the_gap_is_of_the_same_problems(tmp_path):
  """One fails under all prompts: the score it had there does not count."""
  answer = world(1, guided=lambda _, a: failing() if a == 2000 else None)
  with contest(tmp_path, answer) as (run, _):
    scores = run.journal.candidates[1].scores
    for problem in run.sets.validation:
      if problem.question.startswith("2000+"):
        scores[problem.id] = 0.0
    choice = choose(run)
  assert choice.best == 1 and choice.fresh[1].pairs == 9
  assert choice.fresh[1].gap == pytest.approx(0.9 - RIGHT)


def test_costs_that_are_not_known_are_no_zeros(tmp_path):
  zero = {"role": "r", "calls": 2, "tokens": 1000, "dollars": 0.0}
  zero |= {"unpriced_calls": 0, "lost_calls": 0, "lost_dollars": 0.0}
  costs = {
    "| r | free | 2 | 1,000 | 0.0000 | 0 |": {},
    "| r | local | 2 | 1,000 | unpriced | 0 |": {"unpriced_calls": 2},
    "| r | both | 2 | 1,000 | 0.5000 and unpriced | 0 |": {
      "unpriced_calls": 1,
      "dollars": 0.5,
    },
    "| r | lossy | 2 | 1,000 | 0.0000 | 3 (at most 0.2500 dollars) |": {
      "lost_calls": 3,
      "lost_dollars": 0.25,
    },
  }
  for line, cost in costs.items():
    cost = zero | {"model": line.split()[3]} | cost
    assert " | ".join(report._cost(cost)) == line.strip("| ")


def test_prompts_that_are_kept_and_do_harm_are_told(tmp_path, capsys):
  answer = world(guided=lambda prompt, a: ZERO)
  with contest(tmp_path, answer, (0.5, 0.4)) as (run, _):
    choice = choose(run)
  # Half are right alone, none is under the teaching.
  assert choice.kept == 0
  assert choice.harm.estimate == -0.5 and choice.harm.high < 0
  assert "worse than alone, by -50.0 [" in told(run, choice)
  optimize._show(dataclasses.asdict(choice), tmp_path)
  shown = capsys.readouterr().out
  assert "Do not use the prompts that are kept" in shown
  assert shown.count("seed prompts are kept") == 1 and "kept: the" not in shown


def test_without_fresh_samples_the_scores_of_the_search_decide(tmp_path):
  none = {"choosing__fresh_samples": 0}
  with contest(tmp_path, world(1), **none) as (run, stub):
    for candidate in run.journal.candidates:
      evaluated(run, run.sets.validation, candidate.prompts)
    before = len(stub.calls)
    choice = choose(run)
    assert len(stub.calls) - before == 40 * (2 + 2 * 2)
  # The scores that they were picked by: no winner's curse is measured.
  assert choice.kept == 1 and [f.gap for f in choice.fresh] == [None, None]
  text = told(run, choice)
  assert "not measured" in text and "fresh samples\n" not in text
