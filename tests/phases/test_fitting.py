"""Problems that are too long leave a run at its start, not in its middle."""

import logging

import pytest

from atlas_jax.config import (
  DataConfig,
  EpisodeConfig,
  GrpoConfig,
  PromptsConfig,
  RunConfig,
  ServingConfig,
)
from atlas_jax.data.problems import Problem
from atlas_jax.phases.fitting import TooLong, fitting
from atlas_jax.server_config import ServerConfig
from atlas_jax.teaching.prompts import Prompts


class Words:
  """A tokenizer with one token a word and one for the template."""

  def encode(self, text):
    return list(range(len(text.split())))

  def all_prompt_ids(self, asked):
    return [[0, *self.encode(text)] for text, _ in asked]


PROMPTS = Prompts(
  PromptsConfig(
    student_baseline="{question}",
    student_probe="{question}",
    teacher="{question} {probe}",
    student_taught="{question} {teaching}",
  )
)
# teacher: 1 + words + 3 + 4 <= row; student: 1 + words + 4 + 5 <= its server
EPISODE = EpisodeConfig(
  max_probe_tokens=3, max_teaching_tokens=4, max_solution_tokens=5
)


def problem(words):
  text = " ".join(["w"] * words)
  return Problem(str(words), text, "1")


def config(*, row=100, teacher=100, student=100, url=None, most=1.0):
  return RunConfig(
    phases=("grpo",),
    data=DataConfig(max_too_long=most),
    episode=EPISODE,
    grpo=GrpoConfig(row_length=row),
    serving=ServingConfig(
      teacher=ServerConfig(max_model_len=teacher, url=url),
      student=ServerConfig(max_model_len=student, url=url),
    ),
  )


def kept(config, sizes=range(1, 40)):
  out = fitting(
    [problem(n) for n in sizes],
    split="train",
    prompts=PROMPTS,
    teacher=Words(),
    student=Words(),
    config=config,
  )
  return [int(p.id) for p in out]


def test_everything_that_fits_stays():
  assert kept(config()) == list(range(1, 40))


@pytest.mark.parametrize(
  "room, longest",
  [
    ({"row": 18}, 10),
    ({"teacher": 18}, 10),
    ({"student": 20}, 10),
    ({"row": 18, "student": 19}, 9),
  ],
)
def test_the_longest_episode_counts(room, longest, caplog):
  with caplog.at_level(logging.WARNING):
    assert kept(config(**room)) == list(range(1, longest + 1))
  assert f"{39 - longest} of 39 train problems" in caplog.text


def test_a_server_at_a_url_has_its_own_limits():
  assert len(kept(config(student=5, teacher=5, url="http://x"))) == 39


def test_nothing_fits():
  with pytest.raises(TooLong, match=r"config\.grpo\.row_length is 8"):
    kept(config(row=8))
