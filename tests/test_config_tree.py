"""What every kind of config does: bounds, conflicts, keys that were renamed."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from atlas_jax import addresses, config_tree
from atlas_jax.config import RunConfig, default_config, resolve
from atlas_jax.config_tree import ConfigError, PositiveInt, Share, Valid, build
from atlas_jax.online.production.config import ProxyConfig
from atlas_jax.online.search.config import OnlineConfig

_EVEN = Valid("must be even", lambda x: x % 2 == 0)
_NUMBER = Valid("must be a number", float)
_HIDDEN = Valid("must be short", lambda x: len(x) < 9, shown=False)


@dataclass(frozen=True)
class Part:
  kind: Literal["", "a", "b"] = ""
  low: Annotated[PositiveInt, _EVEN] = 2
  high: int = 4

  def conflicts(self):
    if self.low > self.high:
      yield f"low={self.low} is above config.high"


@dataclass(frozen=True)
class Whole:
  share: Share | None = None
  number: Annotated[str, _NUMBER] = "1"
  hidden: tuple[Annotated[str, _HIDDEN], ...] = ()
  first: Part = Part()
  second: Part = field(default_factory=Part)

  @property
  def unread(self):
    return ("second",) if not self.first.kind else ()


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    ({"share": -0.5}, "config.share=-0.5 must not be negative"),
    ({"share": 1.5}, "config.share=1.5 must not be above 1"),
    ({"first": {"low": 0}}, "config.first.low=0 must be above 0"),
    ({"first": {"low": 3}}, "config.first.low=3 must be even"),
    (
      {"number": "x"},
      "config.number='x' must be a number (could not convert string to float:"
      " 'x')",
    ),
    ({"hidden": ["a", "secret key"]}, "config.hidden must be short"),
    ({"first": {"kind": "c"}}, "config.first.kind='c' is not one of , a, b"),
    ({"first": {"low": 6}}, "config.first.low=6 is above config.high"),
    (
      {"first": {"kind": "a"}, "second": {"low": 6}},
      "config.second.low=6 is above config.high",
    ),
    ({"first": 3}, "config.first must hold keys, got 3"),
  ],
)
def test_what_is_refused(changes, text):
  with pytest.raises(ConfigError) as error:
    build(Whole, changes)
  assert str(error.value) == text


def test_what_a_section_must_be_is_not_asked_of_one_that_is_not_read():
  config = build(Whole, {"second": {"low": 6}})
  assert config.second.low == 6
  with pytest.raises(ConfigError, match="must be even"):  # a bound is
    build(Whole, {"second": {"low": 3}})


def test_a_config_that_was_never_a_tree_is_held_to_the_same():
  good = Whole(share=0.5, first=Part("a", 2, 2))
  assert build(Whole, good) == good
  for bad, text in (
    (dataclasses.replace(good, share=2.0), "x.share=2.0 must not be above 1"),
    (Whole(first=Part(low=6)), "x.first.low=6 is above"),
  ):
    with pytest.raises(ConfigError, match=f"^{text}"):
      build(Whole, bad, "x")


def root_of(key: str):
  """The config that has `key`, as a tree of plain dictionaries."""
  for cls in (RunConfig, OnlineConfig, ProxyConfig):
    tree = config_tree.tree_of(cls())
    if key in config_tree.dotted(tree):
      return cls, tree.to_dict()
  raise AssertionError(f"no config has the key {key}")


@pytest.mark.parametrize(("old", "new"), config_tree.RENAMED.items())
def test_a_renamed_key_is_refused_with_its_new_name(old, new):
  cls, tree = root_of(new.partition("=")[0])
  key, _, value = old.partition("=")
  *above, last = key.split(".")
  node = tree
  for part in above:
    node = node.setdefault(part, {})
  assert value or last not in node
  node[last] = value or 1
  with pytest.raises(ConfigError) as error:
    build(cls, tree)
  told = str(error.value)
  # Of a section that is gone no key is read.
  gone = above and above[0] in config_tree.RENAMED
  assert f"(it is config.{'episode' if gone else new} now)" in told
  assert "\n" not in told


def test_a_key_that_another_tree_has_renamed_gets_a_guess():
  """serving is a section of training alone."""
  tree = config_tree.tree_of(OnlineConfig()).to_dict()
  tree["serving.delta"] = 1
  with pytest.raises(ConfigError, match="unknown config key") as error:
    build(OnlineConfig, tree)
  assert "publish_changes" not in str(error.value)


@pytest.mark.parametrize(
  ("key", "value"),
  [("seed", -1), ("seed", 1 << 32), ("serving.teacher.port", 70_000)],
)
def test_numbers_that_end_a_run_late(key, value):
  tree = default_config()
  tree.update_from_flattened_dict({key: value})
  with pytest.raises(ConfigError, match=f"config.{key}={value} must"):
    resolve(tree)


@pytest.mark.parametrize(
  "url",
  ["http://h:99999", "http://h:x", "http://h:0", "http://a..b", "http://.h"],
)
def test_an_address_that_no_client_could_ask(url):
  assert addresses.problem(url).startswith("must be an address")
  assert addresses.problem("http://[::1]:8000/v1") is None


def test_configs_differ_by_their_dotted_keys():
  one = {"a": {"b": 1, "c": 2}, "d": {}}
  other = {"a": {"b": 1, "c": 3}, "e": "x"}
  assert config_tree.difference(one, other) == [
    ("a.c", 2, 3),
    ("d", {}, None),
    ("e", None, "x"),
  ]


def test_secrets_of_configs_are_hidden_and_nan_is_no_difference():
  one = {"a": float("nan"), "api_key": "x"}
  other = {"a": float("nan"), "api_key": "y"}
  assert config_tree.difference(one, other) == [
    ("api_key", "[hidden]", "[hidden]")
  ]


def test_only_a_dictionary_is_given_whole():
  tree = default_config()
  assert "given whole: config.data.params={...}" in config_tree.meant(
    "data.params.x", tree
  )
  assert "given whole" not in config_tree.meant("seed.x", tree)


def test_a_number_above_all_floats_is_refused_by_its_key():
  with pytest.raises(ConfigError, match=r"^config.share is too large"):
    build(Whole, {"share": 10**400})
