"""What a teacher reads of a plan is the same on every road."""

import asyncio

import pytest

from atlas_jax.config import PromptsConfig
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.problems import make_problem
from atlas_jax.episode_config import ChatTemplateKwargs, EpisodeConfig
from atlas_jax.online import TeachingAgent
from atlas_jax.serving.client import Completion
from atlas_jax.teaching.episode import run_arm, run_episodes
from atlas_jax.teaching.prompts import NO_PROBE, Prompts
from atlas_jax.teaching.speakers import Role
from tests import published
from tests.online import small_world
from tests.online.opened_run import evaluated, opened
from tests.online.production import proxied
from tests.online.stub_server import StubServer

QUESTION = "1+1?"
LONG = " ".join(["carry"] * 90)
# what the student says of its plan -> what the teacher reads
PLANS = {
  " add the ones\n": "add the ones",
  "<think>2 or 3</think> add": "add",
  "2 or 3</think>add": "add",
  "<think>first I would add": "first I would add",
  "": NO_PROBE,
  "<think>hm</think> ": NO_PROBE,
}


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
  path = published.write(tmp_path_factory.mktemp("m") / "qwen3", "qwen3")
  return ChatTokenizer.from_dir(path)


class Server:
  """A server of a run that answers by rule; keeps prompts as text."""

  def __init__(self, chat, answer):
    self.chat, self.answer, self.prompts = chat, answer, []

  async def generate(self, token_ids, sampling, *, cache_salt=None, group=None):
    prompt = self.chat.decode(token_ids, special=True)
    self.prompts.append(prompt)
    text = self.answer(prompt)
    ids = (*self.chat.encode(text), self.chat.end_id)
    one = Completion(text, ids, (0.0,) * len(ids), "stop", 0)
    return [one] * sampling.n


def servers(chat, plan):
  def answers(prompt):
    return plan if "PROBE" in prompt else "<solution>2</solution>"

  return (
    Server(chat, lambda prompt: "<teaching>count</teaching>"),
    Server(chat, answers),
  )


def trained(chat, plan, config=None, road="training"):
  """(prompts of the teacher, of the student)."""
  teacher, student = servers(chat, plan)
  common = {
    "teacher": Role(teacher, chat, "v"),
    "student": Role(student, chat, "f"),
    "prompts": Prompts(PromptsConfig(**proxied.PROMPTS)),
    "config": config or EpisodeConfig(),
    "seed": 0,
  }
  problems = [make_problem(QUESTION, "2")]
  if road == "training":
    work = run_episodes(
      problems,
      group_size=2,
      baseline_samples=2,
      step=0,
      baselines={},
      **common,
    )
  else:
    work = run_arm(problems, samples=1, **common)
  asyncio.run(work)
  return teacher.prompts, student.prompts


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("road", ["training", "evaluation"])
def test_the_servers_of_a_run(qwen3, plan, road):
  (prompt,), _ = trained(qwen3, plan, road=road)
  assert f"TEACH {QUESTION} FROM {PLANS[plan]}<|im_end|>" in prompt


@pytest.mark.parametrize("plan", PLANS)
def test_an_optimisation(tmp_path, plan):
  def answer(messages):
    prompt = messages[-1]["content"]
    return (
      plan if prompt.startswith("OUTLINE") else small_world.answer(messages)
    )

  with (
    StubServer(answer) as stub,
    opened(tmp_path, stub.url, student__retries=0) as run,
  ):
    problem = run.sets.validation[0]
    (rollout,) = evaluated(run, [problem])
  assert rollout.scored.episode.probe == PLANS[plan]
  expected = f"TEACH {problem.question} PLAN {PLANS[plan]}"
  assert expected in proxied.contents(stub)


@pytest.mark.parametrize("start", ["OUTLINE", "TEACH"])
def test_an_empty_plan_or_teaching_ends_nothing(tmp_path, start):
  with (
    StubServer(small_world.silent(start)) as stub,
    opened(tmp_path, stub.url, student__retries=0, teacher__retries=0) as run,
  ):
    even = [p for p in run.sets.validation if int(p.question[:4]) % 2 == 0]
    made = evaluated(run, even)
    asked = [c.body["messages"][0]["content"] for c in stub.calls]
  assert len(asked) == 4 * len(even)
  plan = NO_PROBE if start == "OUTLINE" else "I add"
  assert all(f"PLAN {plan}" in p for p in asked if p.startswith("TEACH"))
  hint = "think" if start == "OUTLINE" else ""
  guided = [p for p in asked if p.startswith("GUIDED")]
  assert {p.rpartition("HINT ")[2] for p in guided} == {hint}
  for rollout in made:
    assert rollout.why is None and rollout.objectives["accuracy"] == 1.0
    (teaching,) = rollout.scored.episode.teachings
    assert teaching.status == ("ok" if start == "OUTLINE" else "missing")


@pytest.mark.parametrize("plan", PLANS)
def test_the_proxy(plan):
  def answer(messages):
    words = messages[-1]["content"].split()
    return plan if words[0] == "PROBE" else f"re {words[0]}"

  async def check():
    async with proxied.proxy(proxied.upstream(answer)) as proxy:
      assert await proxy.ask(QUESTION) == ("taught", "re GUIDED")
    return proxied.contents(proxy.teach)

  assert asyncio.run(check()) == [f"TEACH {QUESTION} FROM {PLANS[plan]}"]


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan])
def test_an_agents_own_answer(plan):
  prompts = proxied.PROMPTS
  with (
    proxied.teacher() as teach,
    TeachingAgent(lambda prompt: plan, teach.url, prompts) as taught,
  ):
    assert taught.ask(QUESTION).probe == PLANS[plan]
  assert proxied.contents(teach) == [f"TEACH {QUESTION} FROM {PLANS[plan]}"]


def test_a_long_plan_is_shown_up_to_its_bound(qwen3, tmp_path):
  config = EpisodeConfig(max_probe_tokens=500, shown_probe_tokens=20)
  (prompt,), _ = trained(qwen3, LONG, config)
  shown = prompt.partition("FROM ")[2].partition("<|im_end|>")[0]
  assert LONG.startswith(shown) and len(qwen3.encode(shown)) == 20

  def answer(messages):
    prompt = messages[-1]["content"]
    return (
      LONG if prompt.startswith("OUTLINE") else small_world.answer(messages)
    )

  bounds = {
    "episode__max_probe_tokens": 500,
    "episode__shown_probe_tokens": 20,
  }
  with StubServer(answer) as stub, opened(tmp_path, stub.url, **bounds) as run:
    problem = run.sets.validation[0]
    (rollout,) = evaluated(run, [problem])
  assert rollout.scored.episode.probe == " ".join(["carry"] * 20)


NOT_THINKING = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.mark.parametrize("thinks", ["probe", "student", "teacher", None])
def test_qwen3_thinks_only_where_it_is_told_to(qwen3, thinks):
  kwargs = {} if thinks is None else {thinks: {"enable_thinking": True}}
  config = EpisodeConfig(chat_template_kwargs=ChatTemplateKwargs(**kwargs))
  teacher, student = trained(qwen3, "add", config)
  for part, prompts in (
    ("probe", [p for p in student if "PROBE" in p]),
    ("student", [p for p in student if "PROBE" not in p]),
    ("teacher", teacher),
  ):
    assert prompts
    ends = {prompt.endswith(NOT_THINKING) for prompt in prompts}
    assert ends == {part != thinks}
    if part == thinks:
      assert all(p.endswith("<|im_start|>assistant\n") for p in prompts)


def test_an_argument_that_a_template_does_not_know_does_nothing(qwen3):
  unknown = {part: {"colour": "blue"} for part in ("probe", "teacher")}
  config = EpisodeConfig(chat_template_kwargs=ChatTemplateKwargs(**unknown))
  assert trained(qwen3, "add", config) == trained(qwen3, "add")
