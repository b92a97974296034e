"""The teaching protocol between speakers that write down what they read."""

import asyncio
from dataclasses import replace

import pytest

from atlas_jax.config import EpisodeConfig, PromptsConfig
from atlas_jax.data.problems import make_problem
from atlas_jax.teaching.prompts import NO_PROBE, Prompts
from atlas_jax.teaching.protocol import (
  Question,
  TeachingProtocol,
  gather_all,
  read_answer,
  read_probe,
  wait_all,
)
from atlas_jax.teaching.speakers import Ask, NoAnswer, Once, Said

PROMPTS = Prompts(
  PromptsConfig(
    student_baseline="ALONE {question}",
    student_probe="PROBE {question}",
    teacher="TEACH {question} FROM {probe}",
    student_taught="TAUGHT {question} BY {teaching}",
  )
)
CONFIG = EpisodeConfig(
  max_probe_tokens=5,
  shown_probe_tokens=3,
  probe_temperature=0.5,
  max_teaching_tokens=7,
  teacher_temperature=0.25,
  max_solution_tokens=9,
  student_temperature=0.75,
)
PROBLEM = make_problem("1+1?", "2")
QUESTION = Question("1+1?", PROBLEM.id, (7,), 3)
WELL = "secret thoughts <teaching>count</teaching>"


class Scripted:
  """Answers by the first word of the prompt; keeps (prompt, ask)."""

  tokenizer = None

  def __init__(self, **answers):
    self.answers, self.asked = answers, []

  async def say(self, prompt, ask):
    self.asked.append((prompt, ask))
    answer = self.answers[prompt.split()[0].lower()]
    await asyncio.sleep(0)
    if isinstance(answer, Exception):
      raise answer
    if isinstance(answer, str):
      answer = [answer] * ask.n
    return [Said(text, 8, "stop", 0.5 + i) for i, text in enumerate(answer)]

  @property
  def prompts(self):
    return [prompt for prompt, _ in self.asked]


def student(**answers):
  return Scripted(**{"alone": "2", "probe": "add", "taught": "two"} | answers)


def teacher(*words):
  return Scripted(teach=list(words or [WELL]))


def walk(student, teacher, *, group=1, config=CONFIG, **options):
  protocol = TeachingProtocol(student, teacher, PROMPTS, config, **options)
  return asyncio.run(protocol.episode(PROBLEM, QUESTION, group=group))


def test_without_a_probe_the_teacher_sees_the_problem_alone():
  learns, teaches = student(), teacher()
  config = replace(CONFIG, max_probe_tokens=0)
  episode = walk(learns, teaches, config=config)
  assert not [prompt for prompt in learns.prompts if "PROBE" in prompt]
  assert teaches.prompts == [f"TEACH 1+1? FROM {NO_PROBE}"]
  assert episode.probe == NO_PROBE


def test_the_walk_of_a_model():
  learns, teaches = student(probe=" add \n"), teacher()
  episode = walk(learns, teaches)
  assert [s.text for s in episode.baseline] == ["2"]
  assert episode.probe == "add" and episode.problem is PROBLEM
  (one,) = episode.teachings
  assert (one.said.text, one.text, one.status) == (WELL, "count", "ok")
  assert one.taught.text == "two"
  assert teaches.prompts == ["TEACH 1+1? FROM add"]
  assert sorted(learns.prompts) == [
    "ALONE 1+1?",
    "PROBE 1+1?",
    "TAUGHT 1+1? BY count",
  ]
  how = {
    ask.role: (ask.max_tokens, ask.temperature, ask.n, ask.replicate)
    for _, ask in learns.asked + teaches.asked
  }
  assert how == {
    "student_baseline": (9, 0.75, 1, 3),
    "student_probe": (5, 0.5, 1, 3),
    "teacher": (7, 0.25, 1, 3),
    "student_taught": (9, 0.75, 1, 3),
  }
  stages = ("baseline", "probe", "teach", "taught")
  assert episode.seconds == dict.fromkeys(stages, 0.5)


def seeds(question, **options):
  learns, teaches = student(), teacher(WELL, WELL)
  protocol = TeachingProtocol(learns, teaches, PROMPTS, CONFIG, **options)
  asyncio.run(protocol.episode(PROBLEM, question, group=2))
  return sorted((p, a.seed) for p, a in learns.asked + teaches.asked)


def test_each_request_has_a_seed_of_its_own_the_same_again():
  mine = seeds(QUESTION)
  assert len({seed for _, seed in mine}) == 5  # two are of one prompt
  assert seeds(QUESTION) == mine
  for other in (
    Question("1+1?", PROBLEM.id, (7,), 4),
    Question("1+1?", PROBLEM.id, (8,), 3),
    Question("1+1?", "another", (7,), 3),
  ):
    assert not {s for _, s in seeds(other)} & {s for _, s in mine}
  assert {s for _, s in seeds(Question("1+1?"))} == {None}


@pytest.mark.parametrize(("chars", "shared"), [(None, True), (99, False)])
def test_greedy_samples_are_one_but_an_agents(chars, shared):
  config = EpisodeConfig(student_temperature=0.0, probe_temperature=0.0)
  asked = {}
  for replicate in (0, 1):
    learns = student()
    protocol = TeachingProtocol(
      learns, teacher(), PROMPTS, config, agent_chars=chars
    )
    question = Question("1+1?", "p", (7,), replicate)
    asyncio.run(protocol.baseline(question, 4))
    asyncio.run(protocol.probe(question))
    asyncio.run(protocol.taught(question, "t"))
    asked[replicate] = learns.asked
  same = [a == b for a, b in zip(*asked.values(), strict=True)]
  assert same == [shared, shared, False]
  assert asked[0][0][1].n == (1 if shared else 4)


def test_an_agent_is_not_probed_its_answer_is_the_plan():
  learns, teaches = student(alone="I add. 2"), teacher()
  episode = walk(learns, teaches, agent_chars=6)
  assert episode.probe == "I add. [...]"
  assert teaches.prompts == ["TEACH 1+1? FROM I add. [...]"]
  assert learns.prompts == ["ALONE 1+1?", "TAUGHT 1+1? BY count"]


def test_each_teaching_of_a_group_is_tried():
  learns = student()
  teaches = teacher("<teaching>a</teaching>", "b", "<teaching>c</teaching>")
  episode = walk(learns, teaches, group=3)
  assert [t.status for t in episode.teachings] == ["ok", "missing", "ok"]
  assert [t.taught.text for t in episode.teachings] == ["two"] * 3
  tried = [p for p in learns.prompts if p.startswith("TAUGHT")]
  assert tried == [f"TAUGHT 1+1? BY {text}" for text in ("a", "", "c")]
  (ask,) = [ask for _, ask in teaches.asked]
  assert ask.n == 3
  # Of a stage those of its longest request.
  assert episode.seconds == {
    "baseline": 0.5,
    "probe": 0.5,
    "teach": 2.5,
    "taught": 0.5,
  }


def test_the_baselines_of_another_speaker():
  async def main():
    alone = TeachingProtocol(student(alone="31"), None, PROMPTS, CONFIG)
    mine = TeachingProtocol(student(), teacher(), PROMPTS, CONFIG)
    baseline = alone.baseline(QUESTION, 3)
    return await mine.episode(PROBLEM, QUESTION, baseline=baseline)

  episode = asyncio.run(main())
  assert [said.text for said in episode.baseline] == ["31"] * 3
  assert episode.seconds["baseline"] == 2.5


@pytest.mark.parametrize(
  ("text", "status"),
  [
    ("", "missing"),
    ("just count", "missing"),
    ("<teaching>count", "unclosed"),
    ("<teaching>a</teaching><teaching>b</teaching>", "repeated"),
    ("<teaching> </teaching>", "empty"),
  ],
)
def test_a_malformed_teaching_teaches_nothing(text, status):
  learns = student()
  (one,) = walk(learns, teacher(text)).teachings
  assert (one.text, one.status, one.tokens) == (None, status, 0)
  assert "TAUGHT 1+1? BY " in learns.prompts and one.taught.text == "two"


def test_without_a_tokenizer_a_teaching_has_its_share_of_the_tokens():
  (one,) = walk(student(), teacher("1234<teaching>12345</teaching>")).teachings
  assert one.tokens == 2  # 5 of 30 characters, of 8 tokens


@pytest.mark.parametrize("gather", [gather_all, wait_all])
@pytest.mark.parametrize("stage", ["alone", "probe", "taught"])
def test_a_failure_ends_the_walk(stage, gather):
  failure = NoAnswer(stage, "error", "HTTP 500")
  with pytest.raises(NoAnswer, match=f"^{stage}: error HTTP 500$") as caught:
    walk(student(**{stage: failure}), teacher(), gather=gather)
  assert (caught.value.stage, caught.value.status) == (stage, "error")
  assert str(NoAnswer(stage, "timeout")) == f"{stage}: timeout"


def test_what_is_paid_is_waited_for_and_else_given_up():
  async def gathered(gather):
    ended = []

    async def slow():
      await asyncio.sleep(0.05)
      ended.append("slow")

    async def fails(error):
      raise error

    failures = [NoAnswer("probe", "error"), KeyError("a mistake")]
    with pytest.raises((NoAnswer, KeyError)) as caught:
      await gather([fails(failures[0]), slow(), fails(failures[1])])
    return caught.type, ended

  assert asyncio.run(gathered(gather_all)) == (NoAnswer, [])
  assert asyncio.run(gathered(wait_all)) == (KeyError, ["slow"])


THINKS = "<think>2 and 3</think>"


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("add them", "add them"),
    (f"{THINKS} add ", "add"),
    ("hm</think>add", "add"),  # the prompt opened it
    (f"{THINKS}add<think>so", "add so"),
    ("<think>add then", "add then"),  # never dropped
    ("one two three four five", "one two three"),
    ("<think>one two three four five", "one two three"),
    (f"{THINKS}one, two three", "one, two"),
    ("misunderstanding it", "misunderstanding"),
    ("a misunderstanding", "a misunderstan"),
    ("", NO_PROBE),
    (f"{THINKS} \n", NO_PROBE),
    ("<think>", NO_PROBE),
  ],
)
def test_what_a_teacher_sees_of_a_plan(text, shown):
  learns, teaches = student(probe=text), teacher()
  assert walk(learns, teaches).probe == shown
  assert teaches.prompts == [f"TEACH 1+1? FROM {shown}"]
  # The server's count is believed.
  whole = read_probe(Said("one two three four", 3, "stop"), 3, None)
  assert whole == "one two three four"


@pytest.mark.parametrize(
  ("text", "limit", "shown"),
  [
    ("one two three", 13, "one two three"),
    ("one two three", 12, "one two [...]"),
    ("one two three", 7, "one two [...]"),
    ("one two three", 6, "one [...]"),
    ("one\ntwo", 4, "one [...]"),
    ("endless", 3, "end [...]"),
    (f"{THINKS}so", 3, "so"),
    ("<think>hm, 2 and", 3, "hm, [...]"),
    (THINKS, 3, NO_PROBE),
  ],
)
def test_what_a_teacher_sees_of_an_agents_answer(text, limit, shown):
  assert read_answer(Said(text, 99, "stop"), limit) == shown


def test_equal_asks_are_answered_once_and_failures_again():
  async def main():
    speaker, answers = student(probe=NoAnswer("probe", "timeout")), {}

    def kept(name):
      return Once(speaker, answers, lambda *asked: (name, *asked))

    once = kept("v1")
    ask = Ask("student_baseline", 9, 0.5)
    twice = (once.say("ALONE q", ask) for _ in range(2))
    both = await asyncio.gather(*twice)
    assert both[0] is both[1] and len(speaker.asked) == 1
    assert await once.say("ALONE q", ask) is both[0]
    await kept("v2").say("ALONE q", ask)
    await once.say("ALONE q", Ask("student_baseline", 9, 0.5, replicate=1))
    assert len(speaker.asked) == 3
    for _ in range(2):
      with pytest.raises(NoAnswer):
        await once.say("PROBE q", ask)
    return len(speaker.asked), len(answers)

  assert asyncio.run(main()) == (5, 3)
