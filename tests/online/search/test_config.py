"""The config of an optimisation: every variant, every mistake by name."""

import json
import re

import pytest

from atlas_jax.config import ConfigError, PromptsConfig
from atlas_jax.online.search.config import OnlineConfig, resolve
from atlas_jax.teaching.prompts import PromptError
from configs import online
from tests.online import small_world


@pytest.mark.parametrize("variant", online.VARIANTS)
def test_every_variant_builds(variant):
  assert isinstance(resolve(online.get_config(variant)), OnlineConfig)


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    ({"sizes.minibatch": 0}, "config.sizes.minibatch=0 must be above 0"),
    ({"sizes.minibatch": 13}, "must not be above config.sizes.train=12"),
    ({"objectives.accuracy": -1.0}, "must not be negative"),
    (
      {f"objectives.{n}": 0.0 for n in ("accuracy", "non_degradation")}
      | {"objectives.efficiency": 0.0},
      "at least one weight",
    ),
    ({"caps.calls": 0}, "config.caps.calls=0 must be above 0"),
    ({"search.evolve": ()}, "must name one or more of"),
    ({"search.evolve": ("student_baseline",)}, "must name one or more of"),
    (
      {"agent.kind": "python", "agent.python.target": "a:b"}
      | {"search.evolve": ("student_probe",)},
      "an agent is not probed",
    ),
    ({"agent.kind": "openai_assistant"}, "2026-08-26"),
    (
      {"agent.kind": "python", "agent.python.target": "a:b"}
      | {"caps.dollars": 1.0},
      "set config.agent_dollars_per_call",
    ),
    (
      {"agent.kind": "python", "agent.python.target": "a:b"}
      | {"caps.tokens": 1},
      "config.caps.tokens cannot hold an agent",
    ),
    ({"agent_dollars_per_call": 1.0}, "no effect without agent.kind"),
    ({"prompts.teacher": "{question}"}, "{probe} is missing"),
    ({"reflection.max_prompt_chars": 9}, "more than config.reflection"),
    ({"choosing.non_degradation_floor": 1.5}, "must not be above 1"),
    (
      {
        f"episode.{n}_temperature": 0.0 for n in ("probe", "teacher", "student")
      },
      "config.choosing.fresh_samples=1 at temperature 0",
    ),
    ({"student.kind": "x"}, "config.student.kind='x' is not one of"),
    ({"teacher.kind": "local"}, "config.teacher.model must be given with"),
  ],
  ids=str,
)
def test_what_is_refused(tmp_path, changes, text):
  tree = small_world.tree(tmp_path, "http://127.0.0.1:1")
  tree.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError, match=re.escape(text)) as error:
    resolve(tree)
  assert "\n" not in str(error.value)


def test_prompts_path_replaces_the_prompts(tmp_path):
  tree = small_world.tree(tmp_path, "http://127.0.0.1:1")
  path = tmp_path / "best_prompts.json"
  path.write_text(json.dumps({"prompts": vars(PromptsConfig())}))
  tree.prompts_path = str(path)
  assert resolve(tree).prompts == PromptsConfig()
  path.write_text("{}")
  with pytest.raises(PromptError, match=r"best_prompts\.json: the key"):
    resolve(tree)


@pytest.mark.parametrize("role", ["student", "teacher", "reflection"])
def test_flags_that_open_a_servers_doors_are_refused(role, tmp_path):
  tree = small_world.tree(tmp_path, "http://127.0.0.1:1")
  tree.servers[role].extra_args = ("--trust_remote_code",)
  where = rf"config\.servers\.{role}\.extra_args holds --trust-remote-code"
  with pytest.raises(ConfigError, match=where):
    resolve(tree)
