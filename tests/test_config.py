"""The config tree: every file builds, every mistake is refused by name."""

import dataclasses
import importlib
import re
import typing

import pytest

from atlas_jax import config as config_lib
from atlas_jax import config_tree
from atlas_jax.config import ConfigError, default_config, resolve


def test_defaults_resolve_to_the_dataclasses():
  assert resolve(default_config()) == config_lib.RunConfig()


def test_unknown_key_names_the_key_and_the_valid_ones():
  tree = default_config()
  with tree.unlocked():
    tree.grpo.bta = 0.1
  with pytest.raises(
    ConfigError, match=r"config\.grpo\.bta.*'grpo\.beta'.*steps"
  ):
    resolve(tree)


def test_wrong_type_is_refused():
  tree = default_config()
  with tree.unlocked(), tree.ignore_type():
    tree.grpo.steps = "many"
  with pytest.raises(ConfigError, match=r"config\.grpo\.steps must be int"):
    resolve(tree)


def declared(mark, cls=config_lib.RunConfig, path="") -> list[str]:
  """Every key whose type, written out, holds `mark`."""
  found = []
  for name, kind in typing.get_type_hints(cls, include_extras=True).items():
    if dataclasses.is_dataclass(kind):
      found += declared(mark, kind, f"{path}{name}.")
    elif mark in repr(kind):
      found.append(f"{path}{name}")
  return found


CHOICES = [
  key
  for key in declared("Literal")
  if key not in ("phases", "teacher.lora.targets")
]
POSITIVE, NOT_NEGATIVE = declared("above 0"), declared("not be negative")


def test_so_many_keys_declare_what_is_valid():
  assert len(CHOICES) >= 13 and "grpo.loss_type" in CHOICES
  assert len(POSITIVE) >= 32 and "sft.epochs" in POSITIVE
  assert len(NOT_NEGATIVE) >= 20 and "serving.retries" in NOT_NEGATIVE


@pytest.mark.parametrize("path", CHOICES)
def test_a_value_outside_the_choices_is_refused(path):
  tree = default_config()
  tree.update_from_flattened_dict({path: "nonsense"})
  with pytest.raises(ConfigError, match=r"nonsense.*is not one of"):
    resolve(tree)


def test_a_phase_that_there_is_not_is_refused():
  tree = default_config()
  tree.phases = ("sft", "nonsense")
  with pytest.raises(ConfigError, match=r"phases='nonsense' is not one of sft"):
    resolve(tree)


@pytest.mark.parametrize("path", POSITIVE)
def test_zero_is_refused(path):
  tree = default_config()
  tree.update_from_flattened_dict({path: 0})
  with pytest.raises(ConfigError, match="must be above 0"):
    resolve(tree)


@pytest.mark.parametrize("path", ["sft.steps", "grpo.steps"])
def test_more_steps_than_an_optimizer_counts_are_refused(path):
  tree = default_config()
  tree.update_from_flattened_dict({path: 1 << 31})
  with pytest.raises(ConfigError, match=r"must be below 2\*\*31"):
    resolve(tree)


@pytest.mark.parametrize("path", NOT_NEGATIVE)
def test_a_negative_value_is_refused(path):
  tree = default_config()
  node = tree
  *parents, leaf = path.split(".")
  for part in parents:
    node = node[part]
  kind = type(node[leaf])
  tree.update_from_flattened_dict({path: kind(-1)})
  with pytest.raises(ConfigError, match="must not be negative"):
    resolve(tree)


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    (
      {"loss_type": "cispo"},
      r"eps_high=0\.28: with loss_type=cispo eps_high is itself the cap .*at"
      r" least 1 \(typically 5\)",
    ),
    ({"ratio_cap": 1.0}, r"config\.grpo\.ratio_cap=1\.0 must be above 1 "),
    (
      {"ratio_cap": 4.0, "loss_type": "sapo"},
      r"config\.grpo\.ratio_cap=4\.0 has no effect with loss_type=sapo",
    ),
    (
      {"kl_importance_weighted": True},
      r"kl_importance_weighted=True has no effect with beta=0",
    ),
    (
      {"mismatch_min": 1.5},
      r"mismatch_min=1\.5 and mismatch_max=2\.0 must enclose 1",
    ),
    ({"mismatch_max": 0.5}, r"mismatch_max=0\.5 must enclose 1"),
    ({"entropy_share": 0.0}, r"entropy_share=0\.0 must be above 0"),
    ({"entropy_share": 20.0}, r"entropy_share=20\.0 must not be above 1"),
    ({"skip_grad_norm": 0.0}, r"config\.grpo\.skip_grad_norm=0\.0 must be"),
    ({"beta": float("nan")}, r"config\.grpo\.beta must be a number, got nan"),
    ({"beta": float("inf")}, r"config\.grpo\.beta must be a number, got inf"),
    ({"epochs": 1.5}, r"config\.grpo\.epochs must be int"),
    (
      {"optimizer.schedule": "cosine", "steps": 2, "epochs": 5},
      r"grpo\.optimizer\.warmup_steps=10 leaves no update of the 10 to its",
    ),
  ],
  ids=str,
)
def test_what_cannot_train_is_refused(changes, text):
  tree = default_config()
  with tree.ignore_type():
    tree.grpo.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError, match=text) as error:
    resolve(tree)
  assert "\n" not in str(error.value)


def test_the_losses_of_the_papers_are_accepted():
  for changes in (
    {"loss_type": "cispo", "eps_high": 5.0},
    {"ratio_cap": 4.0, "beta": 0.1, "kl_importance_weighted": True},
    {"ratio_level": "sequence", "eps_low": 3e-4, "eps_high": 4e-4},
    {"mismatch": "token_mask", "mismatch_min": 0.5, "mismatch_max": 5.0},
    {"entropy_share": 0.2, "epochs": 4, "skip_grad_norm": 100.0},
    # More updates than the warm-up takes, though no more steps.
    {"optimizer.schedule": "cosine", "steps": 10, "epochs": 2},
  ):
    tree = default_config()
    tree.grpo.update_from_flattened_dict(changes)
    resolve(tree)


def test_an_optional_key_can_be_set_and_left():
  tree = default_config()
  assert resolve(tree).data.path is None
  tree.data.path = "problems.jsonl"
  assert resolve(tree).data.path == "problems.jsonl"
  tree.data.path = ""  # --config.data.path=
  assert resolve(tree).data.path is None


@pytest.mark.parametrize("none", [None, "", "None"])
def test_every_optional_key_can_be_unset(none):
  tree = default_config()
  with tree.ignore_type():
    tree.update_from_flattened_dict(
      {"grpo.ratio_cap": none, "sft.epochs": none, "checkpoints_dir": none}
    )
  config = resolve(tree)
  assert config.grpo.ratio_cap is config.sft.epochs is config.checkpoints_dir
  with tree.ignore_type():
    tree.grpo.steps = none
  with pytest.raises(ConfigError, match=r"config\.grpo\.steps must be int"):
    resolve(tree)


@pytest.mark.parametrize(
  ("key", "value"), [("grpo", 3), ("data.params", "x"), ("mesh", "auto")]
)
def test_a_value_where_keys_belong_is_refused(key, value):
  tree = dataclasses.asdict(config_lib.RunConfig())
  *above, last = key.split(".")
  (tree[above[0]] if above else tree)[last] = value
  with pytest.raises(ConfigError, match=f"config.{key} must hold keys") as e:
    resolve(tree)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  ("path", "hint"),
  [
    ("grpo.learning_rate", "'grpo.optimizer.learning_rate' or 'sft.opt"),
    ("learning_rate", "'sft.optimizer.learning_rate' or 'grpo.opt"),
    ("sft.lerning_rate", "'sft.optimizer.learning_rate'"),
    ("teacher.seed", "'seed'"),
    ("sft.max_model_len", "'serving.student.max_model_len'"),
    ("grop.beta", "'grpo.beta'"),
  ],
)
def test_a_wrong_key_names_where_the_key_is(path, hint):
  tree = default_config()
  *above, last = path.split(".")
  with tree.unlocked():
    node = tree
    for part in above:
      if part not in node:
        node[part] = {}
      node = node[part]
    node[last] = 1
  unknown = path if not above or above[0] in default_config() else above[0]
  with pytest.raises(ConfigError, match=f"key config.{unknown} ") as error:
    resolve(tree)
  if unknown == path:
    assert "(did you mean " in str(error.value) and hint in str(error.value)
  meant = config_tree.meant(path, default_config())
  assert meant.startswith(" (did you mean '") and hint in meant


def test_a_key_like_no_other_gets_no_guess():
  assert config_tree.meant("zzqq", default_config()) == ""


@pytest.mark.parametrize(
  "changes",
  [{"sft.epochs": 2.0}, {"sft.steps": None}, {"sft.epochs": 0.5}],
  ids=str,
)
def test_steps_or_epochs_of_sft_not_both_and_not_neither(changes):
  tree = default_config()
  tree.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError, match="give one of the two") as error:
    resolve(tree)
  assert "\n" not in str(error.value)
  tree.update_from_flattened_dict({"sft.steps": None, "sft.epochs": 0.5})
  assert resolve(tree).sft.epochs == 0.5


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize(
  "url", ["localhost:8000", "127.0.0.1:8000/v1", "ftp://x", "http://", "//x"]
)
def test_an_address_without_its_scheme_is_refused_at_once(role, url):
  tree = default_config()
  tree.serving[role].url = url
  with pytest.raises(ConfigError, match=rf"serving\.{role}\.url must be an"):
    resolve(tree)
  tree.serving[role].url = "http://localhost:8000"
  resolve(tree)


def test_json_view_holds_every_field():
  view = dataclasses.asdict(config_lib.RunConfig())
  names = {f.name for f in dataclasses.fields(config_lib.RunConfig)}
  assert set(view) == names


@pytest.mark.parametrize(
  ("module", "variant"),
  [
    ("quickstart", "teacher"),
    ("quickstart", "student"),
    ("teacher", "smollm2"),
    ("teacher", "qwen3_8b"),
  ],
)
def test_every_variant_builds(module, variant):
  config = importlib.import_module(f"configs.{module}")
  assert isinstance(resolve(config.get_config(variant)), config_lib.RunConfig)


@pytest.mark.parametrize(
  ("changes", "warmup"),
  [
    ({}, 5),
    ({"steps": 2}, 0),
    ({"steps": 2, "optimizer.warmup_steps": 1}, 1),
  ],
)
def test_a_shorter_quickstart_warms_up_for_less(changes, warmup):
  tree = importlib.import_module("configs.quickstart").get_config()
  tree.grpo.update_from_flattened_dict(changes)
  assert resolve(tree).grpo.optimizer.warmup_steps == warmup


def test_a_recipe_of_several_must_be_named():
  config = importlib.import_module("configs.teacher")
  with pytest.raises(ValueError, match=r"name a variant.*smollm2, qwen3_8b"):
    config.get_config()


@pytest.mark.parametrize("module", ["quickstart", "teacher"])
def test_every_recipe_says_where_it_comes_from(module):
  config = importlib.import_module(f"configs.{module}")
  for recipe in config.VARIANTS.values():
    text = (recipe.__doc__ or "") + config.__doc__
    for word in ("Source:", "Hardware:", "Hours", "esult", "--config=configs/"):
      assert word in text, (recipe.__name__, word)


@pytest.mark.parametrize("module", ["quickstart", "teacher", "online"])
def test_an_unknown_variant_lists_the_valid_ones(module):
  config = importlib.import_module(f"configs.{module}")
  with pytest.raises(ValueError, match=r"unknown variant 'x'.*valid"):
    config.get_config("x")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"grpo.group_size": 1}, "group_size=1 must be at least 2"),
    (
      {"phases": ("grpo",), "episode.teacher_temperature": 0.0},
      "teacher_temperature=0 makes",
    ),
    ({"evaluate.samples": 2}, "samples=2 at temperature 0 are equal"),
    ({"grpo.ref_ema_alpha": 0.5}, "ref_ema_alpha=0.5 has no effect"),
    (
      {"grpo.ref_ema_alpha": 1.5, "grpo.beta": 0.1},
      "ref_ema_alpha=1.5 must not be above 1",
    ),
    ({"grpo.optimizer.clip_norm": 0.0}, "clip_norm=0.0 must be above 0"),
    (
      {"grpo.max_staleness": 1, "grpo.mismatch": "none"},
      "max_staleness=1 trains on what older",
    ),
  ],
)
def test_settings_that_would_learn_nothing_are_refused(changes, message):
  tree = default_config()
  tree.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError, match=re.escape(message)):
    resolve(tree)
