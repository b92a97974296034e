"""The mixture of reasoning-gym problems: hints, splits, judge, templates."""

import collections
import hashlib
import json
import math

import pytest

from atlas_jax.config import resolve
from atlas_jax.data import splits
from atlas_jax.data.problems import make_problem
from atlas_jax.online.search import config as online_config
from atlas_jax.online.search import proposals
from atlas_jax.teaching.rewards import leaks
from configs import gym_hints, gym_problems, gym_templates, online, teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("gym")
  gym_problems.write(folder)
  return folder


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_the_files_are_always_the_same(folder):
  digest = hashlib.sha256()
  for name in ("train", "validation", "test", "sft"):
    digest.update((folder / f"{name}.jsonl").read_bytes())
  assert digest.hexdigest()[:16] == "2294e4eb129c58de"


def test_no_hint_states_the_answer_and_every_form_is_drawn(folder):
  rows = {row["question"]: row for row in lines(folder / "train.jsonl")}
  forms = collections.defaultdict(set)
  for example in lines(folder / "sft.jsonl"):
    if example["problem_text"] not in rows:
      continue
    row = rows[example["problem_text"]]
    hint = example["teacher_teaching"]
    assert not leaks(hint, make_problem(row["question"], row["answer"]))
    made = gym_hints.hints(row)
    forms[row["task"]] |= {i for i, one in enumerate(made) if one == hint}
  for task, weights in gym_hints.WEIGHTS.items():
    assert forms[task] == set(range(len(weights) + 1)), task


@pytest.mark.parametrize(
  ("animals", "products", "last", "careful"),
  [
    (
      {"dog": 2, "starfish": 3, "ant": 2},
      "dog: 2 x 4 = 8; starfish: 3 x 5 = 15; ant: 2 x 6 = 12",
      "8 + 15 + 12 =",
      "both: 8 + 15 = and the sum, then the sum + 12 =",
    ),
    (
      {"dog": 2, "snake": 4, "starfish": 3},
      "dog: 2 x 4 = 8; snake: 4 x 0 = 0; starfish: 3 x 5 = 15",
      "8 + 15 =",
      "15 + 8 =",
    ),
    ({"snake": 4, "dog": 2}, "snake: 4 x 0 = 0; dog: 2 x 4", *["2 x 4 ="] * 2),
  ],
)
def test_hints_of_legs(animals, products, last, careful):
  row = {"task": "leg_counting", "answer": "99", "question": "How many legs?"}
  assert gym_hints.hints(row | {"facts": animals}) == [
    f"{products}. Write out {last} and the total.",
    f"{products}. Write out {careful} and the total.",
    f"{products}.",
    f"Write out {last} and the total.",
    gym_hints.SILENCE,
  ]


def test_no_facts_of_a_test_problem_are_trained_on(folder):
  def facts(row):
    own = row["facts"]
    return str(sorted(own.items() if isinstance(own, dict) else own))

  train = {facts(row) for row in lines(folder / "train.jsonl")}
  test = lines(folder / "test.jsonl")
  assert collections.Counter(row["task"] for row in test) == {
    task: sizes[2] for task, sizes in gym_problems.SIZES.items()
  }
  assert not train & {facts(row) for row in test}
  for row in test:
    if row["task"] == "lcm":
      assert int(row["answer"]) == math.lcm(*row["facts"])


@pytest.mark.parametrize(
  "gold, said, score",
  [
    ("94", "24 + 70 = 94", 1),
    ("94", "24 + 70 = 95", 0),
    ("94", "94 legs", 1),
    ("94", "24 + 70", 0),
    ("45", "15 x 3 = 45", 1),
    ("4", "4 x 0 = 0", 0),
    ('[["a", "b"], ["c", "d"]]', "[['d', 'c'], ['a', 'b']]", 1),
    ('[["a", "b"], ["c", "d"]]', '[["a", "b", "c"], ["d"]]', 0),
    ('[["a", "b"], ["c", "d"]]', "a b c d", 0),
  ],
)
def test_the_judge(gold, said, score):
  assert gym_problems.right("", gold, f"<solution>{said}</solution>") == score


def test_the_recipe_reads_the_files(folder):
  config = teacher.get_config("qwen05_gym")
  for name in ("path", "validation_path", "test_path", "sft_path"):
    config.data[name] = str(folder / config.data[name].rpartition("/")[2])
  data = resolve(config).data
  found = splits.load(data)
  assert len(found.test) == config.evaluate.problems
  assert {p.kind for p in found.test} == set(gym_problems.TASKS)
  assert len(splits.load_sft(data)) == sum(gym_problems.SFT_SIZES.values())


def test_every_text_is_offered_once_to_a_search_of_its_task(
  folder, monkeypatch
):
  monkeypatch.setattr(gym_templates, "_offered", set())
  config = online_config.resolve(online.get_config("qwen05_gym"))
  for row in lines(folder / "validation.jsonl")[::63]:
    for template in config.search.evolve:
      asked = f"The template is {template}: x\n{row['question']}"
      texts = gym_templates.offers(template, [row["task"]])
      for text in texts:
        said = gym_templates.reflect([{"content": asked}], None)
        current = getattr(config.prompts, template)
        assert proposals.read(said, template, current, config.prompts, 4000)
        assert said == f"```\n{text}\n```"
      assert "no other" in gym_templates.reflect([{"content": asked}], None)


def test_there_are_sixteen_texts_a_task():
  for task in gym_problems.TASKS:
    assert len({*gym_templates.offers("student_taught", [task])}) >= 16
