"""The episode runner against a sampler that answers by rule."""

import asyncio
import dataclasses
import json

import pytest

from atlas_jax.config import EpisodeConfig, PromptsConfig, RewardConfig
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.problems import make_problem
from atlas_jax.serving.client import Completion, ServerDown
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.episode import run_arm, run_episodes
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.rewards import score_episodes
from atlas_jax.teaching.speakers import Role, request_seed
from atlas_jax.teaching.transcripts import attempt_json, episode_json
from tests.chat_model import write_tokenizer

PROMPTS = Prompts(
  PromptsConfig(
    student_baseline="solve {question}",
    student_probe="outline {question}",
    teacher="teach {question} given {probe}",
    student_taught="solve {question} hint {teaching}",
  )
)
CONFIG = EpisodeConfig(
  max_probe_tokens=50,
  max_teaching_tokens=60,
  max_solution_tokens=70,
  teacher_temperature=1.0,
  student_temperature=0.5,
  probe_temperature=0.0,
)


class Sampler:
  """Answers by a function of (prompt text, sampling, i); keeps a record."""

  def __init__(self, chat, answer):
    self.chat, self.answer, self.requests = chat, answer, []

  async def generate(self, token_ids, sampling, *, cache_salt=None, group=None):
    text = self.chat.decode(token_ids)
    self.requests.append((text, sampling, cache_salt))
    completions = []
    for i in range(sampling.n):
      reply = self.answer(text, sampling, i)
      if asyncio.iscoroutine(reply):
        reply = await reply
      ids = (*self.chat.encode(reply), self.chat.end_id)
      logprobs = tuple(-0.1 * (j + 1) for j in range(len(ids)))
      completions.append(Completion(reply, ids, logprobs, "stop", 7))
    return completions


def student_answer(text, sampling, i):
  if "outline" in text:
    return " I add the ones "
  return "<solution>62</solution>" if "carry" in text else "I guess 52"


def teacher_answer(text, sampling, i):
  return [
    "drops it. <teaching>carry the one</teaching>",
    "my private words, no tags",
    "<teaching>keep it</teaching>",
  ][i % 3]


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
  return ChatTokenizer.from_dir(write_tokenizer(tmp_path_factory.mktemp("m")))


@pytest.fixture
def roles(chat):
  return (
    Role(Sampler(chat, teacher_answer), chat, "v3"),
    Role(Sampler(chat, student_answer), chat, "frozen"),
  )


def run(problems, roles, *, step=5, baselines=None, config=CONFIG, group=3):
  teacher, student = roles
  return asyncio.run(
    run_episodes(
      problems,
      teacher=teacher,
      student=student,
      prompts=PROMPTS,
      config=config,
      group_size=group,
      baseline_samples=3,
      seed=11,
      step=step,
      baselines={} if baselines is None else baselines,
    )
  )


def test_an_episode_holds_what_was_sampled(roles, chat):
  problem = make_problem("27 + 35?", "62")
  (episode,) = run([problem], roles)
  assert [s.text for s in episode.baseline] == ["I guess 52"] * 3
  assert episode.probe == "I add the ones"
  first, second, third = episode.teachings
  assert list(first.said.prompt_ids) == chat.prompt_ids(
    "teach 27 + 35? given I add the ones"
  )
  assert (first.text, first.status) == ("carry the one", "ok")
  assert first.tokens == len(chat.encode("carry the one"))
  assert first.taught.text == "<solution>62</solution>"
  assert first.taught.tokens == len(chat.encode(first.taught.text)) + 1
  assert first.said.sample.weight_version == 7
  assert len(first.said.sample.logprobs) == len(first.said.sample.token_ids)
  assert (second.text, second.status, second.tokens) == (None, "missing", 0)
  assert third.taught.text == "I guess 52"
  assert set(episode.seconds) == {"baseline", "probe", "teach", "taught"}


def test_private_words_never_reach_the_student(roles):
  run([make_problem("27 + 35?", "62")], roles)
  asked = [text for text, _, _ in roles[1].client.requests]
  assert not any("private" in text or "drops it" in text for text in asked)
  # Without tags the student is taught nothing.
  assert sum(text.rstrip().endswith("hint \nassistant") or
             "hint \n" in text for text in asked) == 1  # fmt: skip


def test_requests_per_problem_and_their_sampling(roles, chat):
  problem = make_problem("27 + 35?", "62")
  run([problem], roles)
  teacher, student = (role.client.requests for role in roles)
  ((_, sampling, salt),) = teacher
  assert sampling.seed == request_seed(11, 5, problem.id, "teach", 0)
  assert (sampling.n, sampling.max_tokens, salt) == (3, 60, "v3")
  assert sampling.stop_token_ids == chat.stop_ids
  kinds = sorted(
    (s.n, s.max_tokens, s.temperature, salt) for _, s, salt in student
  )
  assert kinds == [
    (1, 50, 0.0, "frozen"),  # one probe
    (1, 70, 0.5, "frozen"),  # three guided solutions
    (1, 70, 0.5, "frozen"),
    (1, 70, 0.5, "frozen"),
    (3, 70, 0.5, "frozen"),  # one request for the baseline
  ]
  assert len({s.seed for _, s, _ in student}) == 5


def test_a_step_repeated_is_identical_and_another_step_is_not(roles):
  problems = [make_problem(f"{i} + 1?", str(i + 1)) for i in range(3)]

  def seeds(step):
    for role in roles:
      role.client.requests.clear()
    run(problems, roles, step=step)
    return sorted(
      (text, s.seed) for role in roles for text, s, _ in role.client.requests
    )

  assert seeds(5) == seeds(5)
  changed = set(seeds(5)) ^ set(seeds(6))
  assert len(changed) == 2 * 3 * 5  # all but the three baselines


def test_seeds_are_the_same_on_every_machine_and_leave_room():
  assert request_seed(0, 1, "a", "probe") == 815071216
  assert request_seed("1", "2") != request_seed("12")
  assert all(request_seed(i) < 2**31 - 2**16 for i in range(1000))


def test_the_baseline_is_cached_by_question_student_and_sampling(roles):
  problem, cache = make_problem("27 + 35?", "62"), {}

  def baseline_requests(roles, config=CONFIG, step=0):
    roles[1].client.requests.clear()
    run([problem], roles, baselines=cache, config=config, step=step)
    texts = [text for text, _, _ in roles[1].client.requests]
    return sum("solve" in t and "hint" not in t for t in texts)

  assert baseline_requests(roles) == 1
  assert baseline_requests(roles, step=1) == 0
  hotter = dataclasses.replace(CONFIG, student_temperature=0.9)
  assert baseline_requests(roles, hotter) == 1
  other = (roles[0], dataclasses.replace(roles[1], version="another"))
  assert baseline_requests(other) == 1


def test_a_problem_twice_in_a_step_is_sampled_twice_on_one_baseline(roles):
  problem = make_problem("27 + 35?", "62")
  run([problem, problem], roles)
  seeds = [s.seed for _, s, _ in roles[0].client.requests]
  assert len(set(seeds)) == 2
  assert sum(s.n == 3 for _, s, _ in roles[1].client.requests) == 1


def test_a_slow_problem_holds_no_other(chat):
  finished = []

  async def slow(text):
    await asyncio.sleep(0.3 if "slow" in text else 0)
    return "I add"

  def answer(text, sampling, i):
    if "hint" in text:
      finished.append("slow" if "slow" in text else "quick")
    return slow(text) if "outline" in text else "I guess 52"

  roles = (
    Role(Sampler(chat, teacher_answer), chat, "v"),
    Role(Sampler(chat, answer), chat, "f"),
  )
  problems = [make_problem(q, "1") for q in ("slow one", "a", "b")]
  episodes = run(problems, roles, group=1)
  assert finished == ["quick", "quick", "slow"]
  assert [e.problem.question for e in episodes] == ["slow one", "a", "b"]


def test_a_dead_server_ends_the_step_at_once(chat):
  asked = []

  async def answer_late(text):
    asked.append(text)
    if "bad" in text:
      raise ServerDown("gone")
    await asyncio.sleep(30)

  roles = (
    Role(Sampler(chat, teacher_answer), chat, "v"),
    Role(Sampler(chat, lambda text, s, i: answer_late(text)), chat, "f"),
  )
  problems = [make_problem(q, "1") for q in ("good", "bad")]
  with pytest.raises(ServerDown, match="gone"):
    asyncio.run(
      asyncio.wait_for(
        run_episodes(
          problems,
          teacher=roles[0],
          student=roles[1],
          prompts=PROMPTS,
          config=CONFIG,
          group_size=1,
          baseline_samples=3,
          seed=0,
          step=0,
          baselines={},
        ),
        timeout=5,
      )
    )


def test_a_greedy_student_has_one_baseline_sample(roles):
  greedy = dataclasses.replace(CONFIG, student_temperature=0.0)
  (episode,) = run([make_problem("q", "1")], roles, config=greedy)
  assert len(episode.baseline) == 1


def test_a_transcript_is_json_and_says_it_all(roles):
  episodes = run([make_problem("27 + 35?", "62")], roles)
  with AnswerChecker() as checker:
    (scored,) = score_episodes(
      episodes, checker=checker, config=RewardConfig(), max_teaching_tokens=60
    )
  row = json.loads(json.dumps(episode_json(scored, 5), allow_nan=False))
  assert (row["step"], row["pass_rate"]) == (5, 0.0)
  teaching = row["teachings"][0]
  sample = episodes[0].teachings[0].said.sample
  assert teaching["token_ids"] == list(sample.token_ids)
  assert teaching["logprobs"] == list(sample.logprobs)
  assert teaching["taught"]["status"] == "correct"
  assert teaching["reward"] == 1.0  # fixed it, in no fewer tokens
  assert row["teacher_prompt_ids"] == list(
    episodes[0].teachings[0].said.prompt_ids
  )


@pytest.mark.parametrize(
  ("arm", "right"), [("alone", 0), ("constant", 4), ("taught", 4)]
)
def test_arms(roles, chat, arm, right):
  teacher, student = roles
  problems = [make_problem(f"{q}", "62") for q in ("27 + 35?", "26 + 36?")]
  attempts = asyncio.run(
    run_arm(
      problems,
      student=student,
      prompts=PROMPTS,
      config=CONFIG,
      samples=2,
      seed=1,
      teacher=teacher if arm == "taught" else None,
      constant="carry" if arm == "constant" else None,
    )
  )
  assert [(a.problem, a.sample) for a in attempts] == [
    (p, i) for p in problems for i in range(2)
  ]
  with AnswerChecker() as checker:
    verdicts = checker.check_many(
      (a.problem, a.solution.text, a.solution.finish_reason) for a in attempts
    )
  lines = [attempt_json(arm, *x) for x in zip(attempts, verdicts, strict=True)]
  assert sum(x["solution"]["score"] for x in lines) == right
  tokens = {
    "alone": 0,
    "constant": len(chat.encode("carry")),
    "taught": len(chat.encode("carry the one")),
  }
  assert {x["teaching_tokens"] for x in lines} == {tokens[arm]}
  assert all(0 < a.seconds < 600 for a in attempts)
  row = json.loads(json.dumps(lines[0]))
  assert row["arm"] == arm
  assert row["solution"]["status"] == verdicts[0].status
  sampled = [s for _, s, _ in student.client.requests if s.temperature > 0]
  assert len({s.seed for s in sampled}) == len(sampled) > 0
