"""The protocol against students and teachers that write down what they read."""

import asyncio

import pytest

from atlas_jax.config import PromptsConfig
from atlas_jax.online import protocol
from atlas_jax.online.replies import Reply
from atlas_jax.teaching.prompts import Prompts

PROMPTS = Prompts(
  PromptsConfig(
    student_baseline="ALONE {question}",
    student_probe="PROBE {question}",
    teacher="TEACH {question} FROM {probe}",
    student_taught="GUIDED {question} BY {teaching}",
  )
)
QUESTION = protocol.Question("1+1?", key="p0", seed=7)
WELL = "secret thoughts <teaching>count</teaching>"


class Student:
  """Answers by the first word of the prompt."""

  name = "student"

  def __init__(self, **replies):
    self.replies = replies
    self.asked = []

  async def ask(self, prompt, *, role, seed, replicate):
    self.asked.append((prompt, role, seed, replicate))
    reply = self.replies[prompt.split()[0].lower()]
    if isinstance(reply, BaseException):
      raise reply
    return reply


class Model:
  name = "teacher"

  def __init__(self, reply):
    self.reply = reply
    self.requests = []

  async def chat(self, request):
    self.requests.append(request)
    return self.reply


def ok(text, status="ok"):
  return Reply(status, text)


def run(student, teacher, *, probe=True, config=None):
  """(unaided solution, taught attempt), one call after another."""
  how = config or protocol.TeachConfig()

  async def episode():
    alone = await protocol.ask_baseline(student, PROMPTS, QUESTION)
    approach = alone
    if probe:
      approach = await protocol.ask_probe(student, PROMPTS, QUESTION)
    taught = await protocol.teach(teacher, PROMPTS, how, QUESTION, approach)
    return alone, await protocol.finish(student, PROMPTS, QUESTION, taught)

  return asyncio.run(episode())


def test_the_protocol_of_a_model():
  student = Student(alone=ok("2"), probe=ok(" add \n"), guided=ok("two"))
  teacher = Model(ok(WELL))
  alone, taught = run(student, teacher)
  assert alone.text == "2" and taught.guided.text == "two"
  assert (taught.stage, taught.status) == ("guided", "ok")
  assert (taught.teaching, taught.teaching_status) == ("count", "ok")
  (request,) = teacher.requests
  assert request.messages == (
    {"role": "user", "content": "TEACH 1+1? FROM add"},
  )
  assert [(a[0], a[1]) for a in sorted(student.asked)] == [
    ("ALONE 1+1?", "student_baseline"),
    ("GUIDED 1+1? BY count", "student_taught"),
    ("PROBE 1+1?", "student_probe"),
  ]
  # Each call has a seed of its own, the same whenever it is made again.
  seeds = {a[2] for a in student.asked} | {request.seed}
  assert len(seeds) == 4
  again = Student(**student.replies)
  run(again, Model(ok(WELL)))
  assert sorted(again.asked) == sorted(student.asked)


def test_an_agent_is_not_probed_its_answer_is_the_approach():
  student = Student(alone=ok("I add. 2"), guided=ok("two"))
  teacher = Model(ok(WELL))
  alone, taught = run(student, teacher, probe=False)
  assert taught.approach == "I add. 2" and taught.approach_reply is alone
  assert teacher.requests[0].messages[0]["content"].endswith("FROM I add. 2")
  assert [a[1] for a in student.asked] == [
    "student_baseline",
    "student_taught",
  ]


def test_without_a_seed_the_server_samples():
  question = protocol.Question("1+1?", key="p0")
  assert question.seed_of("student_baseline") is None
  one, two = (protocol.Question("q", "p0", 7, r) for r in (0, 1))
  assert one.seed_of("student_baseline") != two.seed_of("student_baseline")


@pytest.mark.parametrize("probe", [True, False])
@pytest.mark.parametrize(
  ("reply", "status"),
  [
    (Reply("error", error="500"), "error"),
    (Reply("timeout"), "timeout"),
    (Reply("empty"), "empty"),
    (ok("<think>hm, 2 and"), "no_approach"),
    (ok("<think>hm</think>  "), "no_approach"),
    (ok("<think>cut", "truncated"), "no_approach"),
  ],
)
def test_no_approach_no_teaching(reply, status, probe):
  teacher = Model(ok(WELL))
  student = Student(alone=reply, probe=reply)
  _, taught = run(student, teacher, probe=probe)
  assert (taught.stage, taught.status) == ("approach", status)
  assert teacher.requests == [] and taught.guided is None


def test_a_cut_probe_is_an_approach_without_its_thinking():
  probe = ok("<think>2</think>first I", "truncated")
  student = Student(alone=ok("2"), probe=probe, guided=ok("two"))
  _, taught = run(student, Model(ok(WELL)))
  assert taught.approach == "first I" and taught.status == "ok"


@pytest.mark.parametrize("status", ["error", "timeout", "empty"])
def test_a_failed_teacher_ends_the_attempt(status):
  student = Student(alone=ok("2"), probe=ok("add"))
  _, taught = run(student, Model(Reply(status)))
  assert (taught.stage, taught.status) == ("teaching", status)
  assert taught.teaching_status is None and taught.guided is None


@pytest.mark.parametrize(
  ("text", "status"),
  [
    ("just count", "missing"),
    ("<teaching>count", "unclosed"),
    ("<teaching>a</teaching><teaching>b</teaching>", "repeated"),
    ("<teaching> </teaching>", "empty"),
  ],
)
def test_a_malformed_teaching_teaches_nothing(text, status):
  student = Student(alone=ok("2"), probe=ok("add"), guided=ok("two"))
  _, taught = run(student, Model(ok(text)))
  assert taught.teaching is None and taught.teaching_status == status
  assert "GUIDED 1+1? BY " in {a[0] for a in student.asked}
  assert taught.status == "ok"


def test_a_failed_guided_solution_has_its_own_status():
  student = Student(alone=ok("2"), probe=ok("add"), guided=Reply("timeout"))
  _, taught = run(student, Model(ok(WELL)))
  assert (taught.stage, taught.status) == ("guided", "timeout")


@pytest.mark.parametrize(
  ("text", "limit", "expected"),
  [
    ("one two three", 13, "one two three"),
    ("one two three", 12, "one two [...]"),
    ("one two three", 7, "one two [...]"),
    ("one two three", 6, "one [...]"),
    ("one\ntwo", 4, "one [...]"),
    ("endless", 3, "end [...]"),
  ],
)
def test_an_approach_is_cut_at_a_word(text, limit, expected):
  assert protocol.approach_of(ok(text), limit) == expected


def test_the_limit_reaches_the_teacher():
  student = Student(alone=ok("one two three"), guided=ok("x"))
  teacher = Model(ok(WELL))
  config = protocol.TeachConfig(
    max_tokens=9, temperature=0.25, max_approach_chars=7
  )
  run(student, teacher, probe=False, config=config)
  (request,) = teacher.requests
  assert request.messages[0]["content"].endswith("FROM one two [...]")
  assert (request.max_tokens, request.temperature) == (9, 0.25)


def test_a_model_as_the_student_has_two_ways_to_be_sampled():
  model = Model(ok("2"))
  agent = protocol.ModelAgent(
    model,
    probe=protocol.ProbeConfig(max_tokens=5, temperature=0.5),
    solution=protocol.SolutionConfig(max_tokens=99, temperature=0.9),
  )

  async def ask_both():
    for role in ("student_probe", "student_baseline"):
      await agent.ask("q", role=role, seed=3, replicate=2)

  asyncio.run(ask_both())
  got = [(r.role, r.max_tokens, r.temperature) for r in model.requests]
  assert got == [
    ("student_probe", 5, 0.5),
    ("student_baseline", 99, 0.9),
  ]
  assert {(r.seed, r.replicate) for r in model.requests} == {(3, 2)}
  assert model.requests[0].messages == ({"role": "user", "content": "q"},)
