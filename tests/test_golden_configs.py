"""A recipe changes on purpose: what it resolves to is kept as text."""

import pytest

from configs import teacher
from tests import golden_configs


@pytest.mark.parametrize("variant", teacher.VARIANTS)
def test_a_recipe_resolves_to_what_it_did(variant):
  kept = golden_configs.path(variant).read_text(encoding="utf-8")
  # Where that is meant: python -m tests.golden_configs
  assert golden_configs.text(variant).splitlines() == kept.splitlines()


def test_a_trainer_of_another_target_differs_where_it_must():
  texts = [
    set(golden_configs.text(variant).splitlines())
    for variant in ("qwen3_8b", "qwen3_8b_v5e64")
  ]
  assert {line.split(" = ")[0] for line in texts[0] ^ texts[1]} == {
    "mesh.context",
    *(f"serving.{r}.gpus" for r in ("teacher", "student")),
    *(f"serving.{r}.replicas" for r in ("teacher", "student")),
    "serving.weights",
  }
