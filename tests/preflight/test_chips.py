"""Targets that are unknown, and compilers that are not there."""

import dataclasses
import itertools
import re

import pytest

from atlas_jax.config import ConfigError, RunConfig
from atlas_jax.preflight import chips, programs
from atlas_jax.preflight import compile as preflight
from atlas_jax.sharding import ShardingError
from tests.training import tiny


@pytest.mark.parametrize("target", ["h100", "h100x0", "v5p", "a100x8", ""])
def test_an_unknown_target_lists_the_valid_ones(target, tmp_path):
  with pytest.raises(ConfigError, match=r"--target.*v5p:2x2x2.*h100x4"):
    chips.devices(target, tmp_path)


@pytest.mark.parametrize("target", ["h100x4", "v5p:2x2x1"])
def test_a_missing_compiler_is_one_line(target, tmp_path):
  with pytest.raises(ConfigError, match=r"setup\.sh --compile") as error:
    chips.devices(target, tmp_path)
  assert "\n" not in str(error.value)


def _program(name, peak, resident=0):
  return programs.Program(name, 2, resident, 1, 1, peak, 0.5, "")


def _check(monkeypatch, *made, **options):
  def compiled(*_):
    for one in made:
      if isinstance(one, Exception):
        raise one
      yield one

  chip = chips.Chip(memory=100, flops=1e12, bandwidth=1.0, link=1e9)
  monkeypatch.setattr(chips, "devices", lambda *_: (chip, [None] * 4))
  monkeypatch.setattr(programs, "compiled", compiled)
  config = RunConfig(teacher=tiny.OPTIONS)
  return preflight.check(config, tiny.ARCHITECTURE, "x", None, **options)


def test_a_tenth_of_the_memory_stays_free(monkeypatch):
  train, score = _program("sft train", 90), _program("grpo score", 60, 30)
  assert _check(monkeypatch, train, score)["fits"]
  checked = _check(monkeypatch, train, _program("grpo publish", 60, 31))
  assert (checked["fits"], checked["peak_bytes"]) == (False, 91)


def test_a_program_that_cannot_be_made_is_said(monkeypatch):
  error = ShardingError("no such mesh\nat all")
  checked = _check(monkeypatch, _program("sft train", 9), error)
  assert (checked["fits"], checked["problem"]) == (False, "no such mesh")
  text = preflight.table(checked)
  assert "does not fit" in text and "no such mesh" in text


def test_a_search_ends_at_the_first_program_that_does_not_fit(monkeypatch):
  made = _program("sft train", 95), RuntimeError("compiled for nothing")
  checked = _check(monkeypatch, *made, to_the_end=False)
  assert not checked["fits"]


def test_a_step_is_that_of_the_last_phase(monkeypatch):
  kinds = ("sft train", "grpo train", "grpo score", "grpo publish")
  checked = _check(monkeypatch, *(_program(kind, 1) for kind in kinds))
  sft, *grpo = (p["estimated_seconds"] for p in checked["programs"])
  step = checked["estimated_step"]
  assert step["seconds"] == pytest.approx(sum(grpo))
  assert sft > 0 and grpo[0] > grpo[1] > grpo[2] == 0
  # By arithmetic alone, at half the peak of four chips.
  done = 4 * checked["programs"][1]["done_flops"]
  assert grpo[0] == pytest.approx(done / 4 / 1e12 / 0.5, rel=1e-3)
  assert step["mfu"] < 0.5 < 1 < step["tokens_per_second"]


def test_what_is_tried_adds_up_and_keeps_the_rest():
  config = RunConfig()
  tried = list(preflight.alternatives(config))
  texts = [text for text, _ in tried]
  assert len(set(texts)) == len(texts) > 3
  keys = [re.findall(r"([\w.]+)=", text) for text in texts]
  assert all(b[: len(a)] == a for a, b in itertools.pairwise(keys))
  last = tried[-1][1]
  assert last.grpo.reference_dtype == "bfloat16"
  assert last.grpo.row_length == config.grpo.row_length // 2
  assert last.mesh.context == last.mesh.tensor == 2
  assert dataclasses.replace(last.episode) == config.episode
