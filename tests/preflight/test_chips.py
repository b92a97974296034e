"""Targets that are unknown, and compilers that are not there."""

import dataclasses
import itertools

import pytest

from atlas_jax.config import RunConfig
from atlas_jax.preflight import chips
from atlas_jax.preflight import compile as preflight
from atlas_jax.preflight.chips import PreflightError


@pytest.mark.parametrize("target", ["h100", "h100x0", "v5p", "a100x8", ""])
def test_an_unknown_target_lists_the_valid_ones(target, tmp_path):
  with pytest.raises(PreflightError, match=r"--target.*v5p:2x2x2.*h100x4"):
    chips.devices(target, tmp_path)


@pytest.mark.parametrize("target", ["h100x4", "v5p:2x2x1"])
def test_a_missing_compiler_is_one_line(target, tmp_path):
  with pytest.raises(PreflightError, match=r"setup\.sh --compile") as error:
    chips.devices(target, tmp_path)
  assert "\n" not in str(error.value)


def _check(peak, problem=None):
  return preflight.Check(RunConfig(), [], peak, 100, problem)


def test_a_tenth_of_the_memory_stays_free():
  assert _check(90).fits
  assert not _check(91).fits
  assert not _check(1, "does not compile").fits


def test_what_is_tried_adds_up_and_keeps_the_rest():
  config = RunConfig()
  tried = list(preflight.alternatives(config))
  texts = [text for text, _ in tried]
  assert len(set(texts)) == len(texts) > 3
  assert all(b.startswith(a) for a, b in itertools.pairwise(texts))
  last = tried[-1][1]
  assert last.grpo.reference_dtype == "bfloat16"
  assert last.grpo.row_length == config.grpo.row_length // 2
  assert last.mesh.context == 2
  assert dataclasses.replace(last.episode) == config.episode
