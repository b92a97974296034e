"""Keys of the user's own functions: what is taken, what is refused."""

import pytest

from atlas_jax import config as config_lib
from atlas_jax.config import (
  ConfigError,
  RewardConfig,
  default_config,
  resolve,
)
from atlas_jax.online.search import config as online_config
from atlas_jax.teaching.rewards import reward


@pytest.mark.parametrize(
  ("name", "term", "says"),
  [
    ("mean", {"function": "a:b", "weight": 1.0}, "'mean' cannot name a term"),
    ("leak", {"function": "a:b", "weight": 1.0}, "'leak' cannot name a term"),
    ("a b", {"function": "a:b", "weight": 1.0}, "'a b' cannot name a term"),
    ("own", {"function": "ab", "weight": 1.0}, "config.reward.extra.own="),
    ("own", {"function": "a:b"}, "must be as"),
    ("own", {"function": "a:b", "weight": "1"}, "must be as"),
    ("own", {"function": "a:b", "weight": float("inf")}, "must be as"),
    ("own", {"function": "a:b", "weight": 1, "more": 2}, "must be as"),
    ("own", 0.5, "must be as"),
  ],
)
def test_a_term_that_is_none_is_refused(name, term, says):
  tree = default_config()
  tree.reward.extra = {name: term}
  with pytest.raises(ConfigError) as caught:
    resolve(tree)
  assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_term_is_taken_and_its_weight_is_a_flag():
  tree = default_config()
  tree.reward.extra = {"own": {"function": "a.py:b", "weight": 1}}
  tree.update_from_flattened_dict({"reward.extra.own.weight": 2})
  extra = resolve(tree).reward.extra
  assert extra == {"own": {"function": "a.py:b", "weight": 2}}


def test_the_names_of_the_parts_are_taken():
  given = reward(
    pass_rate=0.5,
    baseline_tokens=1,
    taught=1.0,
    taught_tokens=1,
    well_formed=True,
    leaked=False,
    teaching_tokens=1,
    max_teaching_tokens=1,
    config=RewardConfig(),
  )
  names = set(config_lib.REWARD_NAMES)
  assert names == {*given.parts, "mean", "std"}


@pytest.mark.parametrize(
  ("key", "value", "says"),
  [
    ("verifier", "mine.py", "must be 'module:function' or"),
    ("own_deadline_s", 0.0, "config.data.own_deadline_s=0.0 must be above 0"),
    ("own_processes", 0, "config.data.own_processes=0 must be above 0"),
  ],
)
@pytest.mark.parametrize("config", [config_lib, online_config])
def test_what_cannot_judge_is_refused(config, key, value, says):
  tree = config.default_config()
  tree.data[key] = value
  with pytest.raises(ConfigError) as caught:
    config.resolve(tree)
  assert says in str(caught.value)
