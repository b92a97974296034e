"""Finding answers and judging them: each trap of answer checking once."""

import time

import pytest

from atlas_jax.confined import Late, Raised, Unanswered
from atlas_jax.data.problems import Problem, make_problem
from atlas_jax.teaching import verify
from atlas_jax.teaching.answers import AnswerChecker, extract


@pytest.fixture(scope="module")
def checker():
  with AnswerChecker(processes=1, deadline_s=1.5) as checker:
    yield checker


@pytest.mark.parametrize(
  ("text", "answer", "rule"),
  [
    ("<solution> 62 </solution>", "62", "tag"),
    ("<solution>1</solution> no, <solution>2</solution>", "2", "tag"),
    ("<answer>1</answer> 7", "1", "tag"),
    (r"<solution>so \boxed{5}</solution>", "5", "tag"),
    (r"thus \boxed{\frac{1}{2}} = 0.5", r"\frac{1}{2}", "boxed"),
    (r"\boxed{1} then \boxed{x^{2^{3}}}", "x^{2^{3}}", "boxed"),
    (r"\boxed{\boxed{\boxed{5}}}", "5", "boxed"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}", "boxed"),
    (r"\boxed{4} or \boxed{5", "4", "boxed"),
    ("it opens at 3:30", "3:30", "last_number"),
    ("so it is 1011_2", "1011_2", "last_number"),
    ("3 * 4 = 12\n#### 70,000\n", "70,000", "hashes"),
    ("#### 42\nI am sure of that.\nGood luck!", "42", "hashes"),
    (
      "#### $5 million\n#### Step 3: check 7\nIt holds.",
      "$5 million",
      "hashes",
    ),
    ("#### x = 5\nas asked", "x = 5", "hashes"),
    ("#### Step 3: add 5\nso 7", "7", "last_number"),
    ("#### 3. Add\nso 7", "7", "last_number"),
    ("#### 2 Ways\nso 7", "7", "last_number"),
    ("<answer>4</answer></answer>", "4", "tag"),
    ("<answer>4</answer></solution> 5", "4", "tag"),
    ("D) 42 km", "D) 42 km", "phrase"),
    ("D) 42 km\n", "D) 42 km", "phrase"),
    ("(B) 12.", "(B) 12.", "phrase"),
    ("Option D", "Option D", "phrase"),
    ("Yes, because 4 > 3", "Yes, because 4 > 3", "phrase"),
    ("D) 42 km\nE) 43 km", "43", "last_number"),
    ("The answer is $1,234. Good 5", "$1,234", "phrase"),
    ("answer: 3.50.", "3.50", "phrase"),
    ("The final answer is: 7", "7", "phrase"),
    ("The answer is 4. No, the answer is 5.", "5", "phrase"),
    ("The answer is\n\n12 km.\nDone.", "12 km", "phrase"),
    ("#### 41 #### 42", "42", "hashes"),
    ("#### 41.\nI used 2 steps.", "41.", "hashes"),
    (r"so it is \frac{1}{2}", "1/2", "last_number"),
    (r"it takes 3\frac{1}{2} hours", "3 1/2", "last_number"),
    ("it can't be 41", "can't be 41", "last_number"),
    ("I do not see it. So 41", "41", "last_number"),
    ("#### 7 #### 8\nso 9", "9", "last_number"),
    ("I get 12, then -4.", "-4", "last_number"),
    ("it is 12-5", "5", "last_number"),
    ("pay $1,200.50", "$1,200.50", "last_number"),
    ("<solution>7", "7", "last_number"),
    ("<think>is it 4?</think> It is 5", "5", "last_number"),
    ("so it is 4?</think> It is 5", "5", "last_number"),
    ("Error analysis: off by 2, so the answer is 42", "42", "phrase"),
    ("Errors are 3 of 8", "8", "last_number"),
  ],
)
def test_the_rule_that_finds_the_answer(text, answer, rule):
  assert extract(text) == (answer, rule)


@pytest.mark.parametrize(
  ("text", "rule"),
  [
    ("", "none"),
    ("no idea", "none"),
    ("<think>5 and 6", "unclosed_think"),
    ("<solution> </solution> 5", "tag"),
    ("Error: 401", "failure_text"),
    ("\nError: 401", "failure_text"),
    ("HTTPError: 500 from server", "failure_text"),
    ("Traceback (most recent call last): 3", "failure_text"),
    ("<solution>Error: 401</solution>", "tag"),
    ("API Error (status 41)", "failure_text"),
    ("Timeout after 41 s", "failure_text"),
    ("<solution>Error</solution>", "tag"),
    (f"<solution>{'1' * 5000}</solution>", "tag"),
  ],
)
def test_what_is_no_answer(text, rule):
  assert extract(text) == (None, rule)


def test_a_long_line_behind_hashes_is_read_in_no_time():
  start = time.monotonic()
  extract("#### " + "x" * 50_000 + "\nso 7")
  assert time.monotonic() - start < 2


def test_deep_nesting_is_not_followed():
  assert extract(r"\boxed{" + "{" * 100 + "5" + "}" * 101)[1] != "boxed"


@pytest.mark.parametrize(
  ("gold", "text", "status"),
  [
    ("18", "<solution>$18</solution>", "correct"),
    ("0", "<solution>0</solution>", "correct"),
    ("1/2", r"\boxed{\frac{1}{2}}", "correct"),
    ("0.001", "<solution>0.004</solution>", "wrong"),
    ("401", "Error: 401", "no_answer"),
    ("x+1", "<solution>$1+x$</solution>", "correct"),
    (r"\frac{\sqrt{2}}{2}", r"<solution>1/\sqrt{2}</solution>", "correct"),
    ("x^2", "<solution>x^3</solution>", "wrong"),
    ("4", "<solution>2+3</solution>", "wrong"),
    ("58", "The answer is **58** students.", "correct"),
    ("58", "She has *58* apples", "correct"),
    ("58", "It costs $58 a week", "correct"),
    ("yes", "Yes, because 4 > 3", "correct"),
    ("D", "D) 42 km", "correct"),
    ("D", r"so \boxed{D: the fourth one}", "correct"),
    ("D", "not D, it is B", "no_answer"),
    ("B", "The answer is (B) 12.", "correct"),
    ("42", "#### 42\nBecause 6 * 7 is 42.\nDone with 3 steps.", "correct"),
    ("5", "<solution>x = 4 or x = 5</solution>", "wrong"),
    ("401", "<solution>1/0</solution>", "wrong"),
    ("3.5", r"so it takes 3\frac{1}{2} hours", "correct"),
    ("210", "Since he did not eat any, the total is 210", "correct"),
    ("3", "The number of students who did not bring lunch is 3.", "correct"),
    ("7", "He didn't lose any so he still has 7 marbles", "correct"),
    ("3/4", "The probability that it is not red is 3/4", "correct"),
    ("12", "It doesn't matter which way we count; there are 12", "correct"),
    ("42", "There are 42 students who do not play", "correct"),
    # What stands beside the last number.
    ("2", r"so x = \frac{3\sqrt{2}}{2}", "wrong"),
    ("2", "the ratio is 3:2", "wrong"),
    ("18", "so there are 18 less apples", "wrong"),
    ("42", r"so $6 \times 7 = 42$", "correct"),
    ("42", "6 times 7 is 42", "correct"),
    (r"\sqrt{2}", r"x is \pm \sqrt{2}", "wrong"),
    (r"3\sqrt{2}", r"Thus $x = 3\sqrt{2}$.", "correct"),
    ("41", "So Betty needs $41 more to buy it.", "correct"),
    ("50%", "it's 50% of that", "correct"),
    # What stands beside a box, and what takes it back.
    ("41", r"\boxed{41} or \boxed{42}", "wrong"),
    ("42", r"\boxed{41} or \boxed{42}", "wrong"),
    ("1, 2", r"The roots are $\boxed{1}$ and $\boxed{2}$.", "correct"),
    ("41000000", r"\boxed{41} million", "correct"),
    ("41", r"\boxed{\boxed{41} + 1}", "wrong"),
    ("41", r"\boxed{x = \boxed{41}}", "correct"),
    ("41", "The answer is 41. Actually, it is 42.", "wrong"),
    ("42", "The answer is 41. Wait, it is 42.", "correct"),
    ("41", "Is the answer 41? No.", "no_answer"),
    ("no", "No.", "correct"),
    ("no", "No, 15 is not prime.", "correct"),
    ("3", "x = 3. Check: is x even? No, it's odd.", "correct"),
    ("42", "It's 41. Wait, it's 42. Wait! I check: fine.", "correct"),
    ("10", "10 to twelve", "wrong"),
    ("1/2", "The chance is 1 in 2, or 1/2", "correct"),
    ("70000", "$70{,}000$", "correct"),
    ("-4", "x = −4", "correct"),
    (r"2\sqrt{3}", "x = 2√3", "correct"),
    (r"2\sqrt{3}", r"It has 2\sqrt{3} square units.", "correct"),
    ("1, 2", r"\boxed{1} and \boxed{2} are wrong", "wrong"),
  ],
)
def test_verdicts(checker, gold, text, status):
  assert checker.check(make_problem("q", gold), text, "stop").status == status


@pytest.mark.parametrize(
    "text",
    [
        "not 41", "It isn't 41", "it is 40 or 41", "between 40 and 41",
        "more than 41", "over 41", "it is hardly 41", "I doubt it is 41",
        "it is false that it is 41", "it does not equal 41", "anything but 41",
        "x > 41", ">41", "x >= 41", "3 + 41", "100 - 41", r"\ln 41", "x_{41}",
        "x = −41", "41 times more", "41 less apples", "41 and a half", "41 Pi",
        "41 and three quarters", "41 to fifty", r"\left(41\right)^2",
        r"$\boxed{41}$ is wrong", r"\boxed{41} isn't right", r"-\boxed{41}",
        r"\boxed{41} is not the answer", r"not $\boxed{41}$",
        r"\boxed{41} or 42",
    ],
)  # fmt: skip
def test_what_denies_41(checker, text):
  assert checker.check(make_problem("q", "41"), text, "stop").status == "wrong"


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 12. Wait, let me double-check. Yes.",
        "\\boxed{12}\n\nWait! Let me double check this. It checks out.",
        "#### 12\n\nActually, that's it.", "12. Actually, I am sure.",
        "$9 + 3 = 12$ bolts.", r"$2x = 24 \Rightarrow x = 12$ years",
        "6*2 = <<6*2=12>>12 meters a week", "6 + 6 => 12", "6 * 2 -> 12",
        "> 12", r"\Rightarrow 12", r"\implies 12", r"\to 12",
        "half of that is 12", "the square root is 12", "the most is 12",
        "a maximum of 12", "adds up to 12", "it goes from 6 to 12",
        "halved to 12", "17 - 5, or 12", "not 11, but 12", "x = 12 (positive)",
        "12 (twelve)", "| Total | 12 |", r"&= 12 \end{aligned}", "12 — done",
        "12mins", "12 p.m.", "12 sq. ft.", "12 over both days", "12 left over",
        "12 quarters", "12 third graders", "12 fewer marbles than Ann",
        "12 ten-dollar bills", "$12 to each of them", "$12 plus tax",
        "He can buy at most 12 apples.", "It takes at least 12 days",
        r"\boxed{12} or, in words, twelve.", r"\boxed{12} is not too hard.",
    ],
)  # fmt: skip
def test_what_leaves_12_as_it_is(checker, text):
  problem = make_problem("q", "12")
  assert checker.check(problem, text, "stop").status == "correct"


def test_a_cut_response_counts_only_if_it_had_answered(checker):
  problem = make_problem("q", "5")
  cut = checker.check(problem, "it is 5 because", "length")
  assert (cut.status, cut.score, cut.completed) == ("truncated", 0.0, False)
  answered = "<solution>5</solution> and furthermore"
  assert checker.check(problem, answered, "length").status == "correct"
  whole = checker.check(problem, "it is 5", "stop")
  assert (whole.status, whole.score, whole.completed) == ("correct", 1.0, True)


def test_an_answer_that_hangs_is_wrong_and_the_next_one_works(checker):
  problem = make_problem("q", "5")
  checker.check(problem, "<solution>2+3</solution>", "stop")  # starts it
  bomb = "<solution>10^{10^{10^{10}}}</solution>"
  start = time.monotonic()
  verdict = checker.check(problem, bomb, "stop")
  assert time.monotonic() - start < 6
  assert (verdict.status, verdict.score) == ("wrong", 0.0)
  after = checker.check(problem, "<solution>2+3</solution>", "stop")
  assert after.status == "correct"


def test_a_gold_answer_that_hangs_is_no_verdict(checker):
  problem = make_problem("q", "10^{10^{10^{10}}}")
  verdict = checker.check(problem, "<solution>2+3</solution>", "stop")
  assert (verdict.status, verdict.score) == ("verifier_timeout", None)


@pytest.mark.parametrize("kind", ["answer", "reasoning_gym"])
@pytest.mark.parametrize(
  "fault", [Late("late"), Raised("E", "x"), Unanswered()]
)
def test_what_breaks_a_comparison_is_wrong_unless_the_gold_does(
  checker, monkeypatch, kind, fault
):
  meta = {"task": "chain_sum", "entry": {}}
  problem = Problem("id", "q", "x+1", kind, meta)
  broken = set()

  def compare(*given):
    if given[-1] in broken:
      raise fault
    return True

  monkeypatch.setattr(checker._pool, "ask", compare)
  said = "<solution>x+2</solution>"
  assert checker.check(problem, said, "stop").status == "correct"
  broken.add("x+2")
  assert checker.check(problem, said, "stop").status == "wrong"
  broken.update(("x+1", "1"))
  assert checker.check(problem, said, "stop").score is None


def test_an_answer_is_not_blamed_for_a_verifier_that_does_not_start(
  monkeypatch,
):
  def refuse(job):
    raise Unanswered

  monkeypatch.setattr(verify, "_start", refuse)
  with AnswerChecker() as checker:
    verdict = checker.check(make_problem("q", "4"), "#### 2+2", "stop")
  assert verdict.status == "error"


def test_a_reasoning_gym_answer_needs_the_full_score(checker):
  import reasoning_gym

  entry = reasoning_gym.create_dataset("chain_sum", size=1, seed=1)[0]
  problem = Problem(
    "id",
    entry["question"],
    entry["answer"],
    "reasoning_gym",
    {"task": "chain_sum", "entry": entry},
  )

  def status(answer):
    return checker.check(
      problem, f"<solution>{answer}</solution>", "stop"
    ).status

  assert status(entry["answer"]) == "correct"
  # Their scorer gives this part of the score.
  assert status(f"it is {entry['answer']} I think") == "wrong"


def test_a_scorer_that_raises_is_no_verdict(checker):
  problem = Problem(
    "id", "q", "a", "reasoning_gym", {"task": "no_such", "entry": {}}
  )
  verdict = checker.check(problem, "<solution>b</solution>", "stop")
  assert (verdict.status, verdict.score) == ("error", None)


def test_many_keep_their_order(checker):
  items = [
    (make_problem("q", str(i)), f"<solution>{i % 3}</solution>", "stop")
    for i in range(6)
  ]
  scores = [v.score for v in checker.check_many(items)]
  assert scores == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_an_unknown_verifier_is_a_mistake(checker):
  problem = make_problem("q", "1", verifier="magic")
  with pytest.raises(ValueError, match="valid: answer, reasoning_gym"):
    checker.check(problem, "<solution>1</solution>", "stop")
