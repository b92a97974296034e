"""Keys of before are refused with their new names; arguments of templates."""

import pytest

from atlas_jax import config as config_lib
from atlas_jax import config_tree
from atlas_jax.config import ConfigError, build, tree_of
from atlas_jax.online import config as online_config
from atlas_jax.online.proxy.config import ProxyConfig, check

DEFAULTS = {
  "train": config_lib.default_config,
  "optimize": online_config.default_config,
  "proxy": lambda: tree_of(ProxyConfig()),
}


def built(root, tree):
  if root == "proxy":
    check(build(ProxyConfig, tree))
  elif root == "optimize":
    online_config.resolve(tree)
  else:
    config_lib.resolve(tree)


def with_key(root, path, value):
  tree = DEFAULTS[root]()
  tree.unlock()
  *above, last = path.split(".")
  node = tree
  for part in above:
    if part not in node:
      node[part] = {}
    node = node[part]
  node[last] = value
  return tree


@pytest.mark.parametrize(
  ("root", "old", "new"),
  [
    ("train", "prompts.student_diagnostic", "prompts.student_probe"),
    ("optimize", "prompts.teacher_adaptive", "prompts.teacher"),
    ("proxy", "prompts.student_with_teaching", "prompts.student_taught"),
    ("train", "episode.baseline_samples", "grpo.baseline_samples"),
    ("optimize", "probe.max_tokens", "episode.max_probe_tokens"),
    ("optimize", "probe.temperature", "episode.probe_temperature"),
    ("optimize", "teaching.max_tokens", "episode.max_teaching_tokens"),
    ("optimize", "teaching.temperature", "episode.teacher_temperature"),
    ("optimize", "teaching.max_approach_chars", "agent_probe_chars"),
    ("optimize", "solution.max_tokens", "episode.max_solution_tokens"),
    ("optimize", "solution.temperature", "episode.student_temperature"),
    ("proxy", "probe.max_tokens", "episode.max_probe_tokens"),
    ("proxy", "teach.max_tokens", "episode.max_teaching_tokens"),
    ("proxy", "teach.temperature", "episode.teacher_temperature"),
    ("proxy", "teach.max_approach_chars", "episode.shown_probe_tokens"),
  ],
)
def test_an_old_key_is_refused_with_the_new_one(root, old, new):
  keys = list(config_tree.dotted(DEFAULTS[root]()))
  assert old not in keys  # as a flag says it
  assert config_tree.meant(old, keys) == f" (it is config.{new} now)"
  # In a file a whole section may be old.
  section = old.split(".")[0]
  said = (old, new) if section in DEFAULTS[root]() else (section, "episode")
  with pytest.raises(ConfigError) as error:
    built(root, with_key(root, old, 1))
  assert f"unknown config key config.{said[0]} " in str(error.value)
  assert f"(it is config.{said[1]} now)" in str(error.value)


def test_a_new_key_that_one_tree_has_is_not_named_in_another():
  keys = config_tree.dotted(DEFAULTS["proxy"]())
  assert "grpo" not in config_tree.meant("episode.baseline_samples", keys)


KWARGS = "episode.chat_template_kwargs"


@pytest.mark.parametrize("root", DEFAULTS)
@pytest.mark.parametrize("part", ["probe", "student", "teacher"])
@pytest.mark.parametrize("name", ["tools", "add_generation_prompt", "a b"])
def test_what_is_no_argument_of_a_template_is_refused(root, part, name):
  tree = with_key(root, f"{KWARGS}.{part}", {name: True})
  if root == "proxy":
    tree.upstream.url = tree.teacher.url = "http://127.0.0.1:1/v1"
    tree.teacher.model = "t"
  with pytest.raises(ConfigError, match=rf"{KWARGS}\.{part} holds '{name}'"):
    built(root, tree)


def test_arguments_that_reach_no_server_are_refused():
  def online(part, **kinds):
    tree = with_key("optimize", f"{KWARGS}.{part}", {"enable_thinking": True})
    for role in ("student", "teacher", "reflection_model"):
      tree[role].kind = "url"
      tree[role].url = "http://127.0.0.1:1/v1"
    tree.update_from_flattened_dict(kinds)
    return tree

  for part in ("probe", "student", "teacher"):
    built("optimize", online(part))
    role = "teacher" if part == "teacher" else "student"
    litellm = {f"{role}.kind": "litellm", f"{role}.model": "m"}
    with pytest.raises(ConfigError, match=f"no effect on a {role} of kind"):
      built("optimize", online(part, **litellm))
  agent = {"agent.kind": "python", "agent.python.target": "string:capwords"}
  with pytest.raises(ConfigError, match="student of kind 'agent'"):
    built("optimize", online("student", **agent))
  tree = with_key("proxy", f"{KWARGS}.student", {"enable_thinking": True})
  tree.upstream.url = tree.teacher.url = "http://127.0.0.1:1/v1"
  tree.teacher.model = "t"
  with pytest.raises(ConfigError, match="client's own request"):
    built("proxy", tree)
