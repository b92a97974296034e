"""Where a run's templates come from when it is started again."""

import json

import pytest

from atlas_jax import config as training
from atlas_jax.config import to_dict
from atlas_jax.directory import write_json
from atlas_jax.online import config as online
from atlas_jax.teaching.prompts import PromptError
from launchers import common
from tests.online import small_world


def write(path, teacher_adaptive):
  prompts = small_world.SEED | {"teacher_adaptive": teacher_adaptive}
  path.write_text(json.dumps({"prompts": prompts}))


@pytest.mark.parametrize("of_training", [True, False])
def test_a_run_goes_on_with_the_templates_that_it_began_with(
  tmp_path, of_training
):
  path, other = tmp_path / "best.json", tmp_path / "other.json"
  write(path, small_world.GOOD)
  if of_training:
    resolve, tree = training.resolve, training.default_config()
  else:
    resolve = online.resolve
    tree = small_world.tree(tmp_path, "http://127.0.0.1:1")
  tree.prompts_path = str(path)
  run = tmp_path / "run"
  first = common.resolved(resolve, tree, run)
  assert first.prompts.teacher_adaptive == small_world.GOOD
  assert first.prompts_path == str(path)
  write_json(run / "config.json", to_dict(first))
  write(path, "TEACH {question} {approach} in another way")
  assert common.resolved(resolve, tree, run) == first
  path.unlink()
  assert common.resolved(resolve, tree, run) == first
  with pytest.raises(PromptError, match="cannot be read"):
    common.resolved(resolve, tree, None)
  # A path that is given anew is read.
  write(other, "TEACH {question} {approach} briefly")
  tree.prompts_path = str(other)
  found = common.resolved(resolve, tree, run)
  assert found.prompts.teacher_adaptive.endswith("briefly")
