"""Arguments of chat templates: what is none, and what would reach no server."""

import pytest

from atlas_jax.config import RunConfig
from atlas_jax.config_tree import ConfigError, build, tree_of
from atlas_jax.online.production.config import ProxyConfig
from atlas_jax.online.search.config import OnlineConfig

URL = "http://127.0.0.1:1/v1"
KWARGS = "episode.chat_template_kwargs"
THINK = {"enable_thinking": True}


def tree(cls, part, arguments):
  out = tree_of(cls()).to_dict()
  out["episode"]["chat_template_kwargs"][part] = arguments
  for role in ("student", "teacher", "reflection_model", "upstream"):
    if cls is not RunConfig and role in out:
      out[role] |= {"url": URL, "model": "m"}
  return out


@pytest.mark.parametrize("cls", [RunConfig, OnlineConfig, ProxyConfig])
@pytest.mark.parametrize("part", ["probe", "student", "teacher"])
@pytest.mark.parametrize("name", ["tools", "add_generation_prompt", "a b"])
def test_what_is_no_argument_of_a_template_is_refused(cls, part, name):
  with pytest.raises(ConfigError, match=rf"{KWARGS}\.{part} holds '{name}'"):
    build(cls, tree(cls, part, {name: True}))


@pytest.mark.parametrize("part", ["probe", "student", "teacher"])
def test_arguments_are_for_models_at_a_url(part):
  given = tree(OnlineConfig, part, THINK)
  kwargs = build(OnlineConfig, given).episode.chat_template_kwargs
  assert getattr(kwargs, part) == THINK
  role = "teacher" if part == "teacher" else "student"
  given[role]["kind"] = "litellm"
  given[role]["url"] = None
  with pytest.raises(ConfigError, match=rf"{KWARGS}\.{part} has no effect"):
    build(OnlineConfig, given)


def test_an_agent_and_a_client_have_their_own():
  given = tree(OnlineConfig, "student", THINK)
  given["agent"]["kind"] = "python"
  given["agent"]["python"]["target"] = "string:capwords"
  with pytest.raises(ConfigError, match="on a student of kind 'agent'"):
    build(OnlineConfig, given)
  with pytest.raises(ConfigError, match="a client's own request"):
    build(ProxyConfig, tree(ProxyConfig, "student", THINK))
  build(ProxyConfig, tree(ProxyConfig, "probe", THINK))
