"""A model's config: what is refused, and how it says so."""

import re

import pytest

from atlas_jax.config import ConfigError, build, tree_of
from atlas_jax.online.calls.ledger import Caps
from atlas_jax.online.calls.model_config import ChatModelConfig
from tests.online.opened import Run, ask, request
from tests.online.stub_server import StubServer

EXTRA = [
  ({"n": 2}, "extra.n is set by the run"),
  ({"api_key": "s"}, "use api_key_env"),
  *(
    ({key: 9}, f"extra.{key} is not bounded")
    for key in (
      *("max_completion_tokens", "extra_body", "best_of", "fallbacks"),
      *("tools", "tool_choice", "functions", "web_search_options"),
      *("prediction", "modalities", "audio"),
    )
  ),
  *(
    ({key: "s"}, f"extra['{key}'] may be")
    for key in (
      *("aws_secret_access_key", "x-api-key", "azure_ad_token", "token"),
      *("csrftoken", "accessKeyId"),
      *("vertex_credentials", "Password", "extra_headers"),
    )
  ),
  ({"metadata": {"user_api_key": "s"}}, "['metadata']['user_api_key'] may be"),
  ({"user": "sk-0123456789pw"}, "extra['user'] may be secret"),
  ({"a": [{"b": [{"headers": {}}]}]}, "extra['a'][0]['b'][0]['headers'] may"),
]


@pytest.mark.parametrize(
  "config, says",
  [
    ({"kind": "openai"}, "config.student.kind='openai' is not one of litellm"),
    ({}, "config.student.url must be given"),
    ({"kind": "litellm"}, "config.student.model must be given"),
    ({"kind": "callable", "model": "f"}, "must be 'module:function'"),
    ({"kind": "callable", "model": "tests.nope:f"}, "does not import"),
    ({"url": "http://me:pw@h"}, "must hold no user, password"),
    ({"url": "http://h", "api_key_env": "NO"}, "the variable NO is not set"),
    ({"url": "http://h", "price_in": 1.0}, "price_out go together"),
    *(({"url": "http://h", "extra": extra}, says) for extra, says in EXTRA),
  ],
)
def test_a_wrong_config_is_one_clear_error(config, says):
  with pytest.raises(ConfigError, match=re.escape(says)) as error:
    Run().open(**config)
  assert "pw" not in str(error.value).replace("password", "")


def test_sampling_parameters_are_no_secrets():
  extra = {
    "top_k": 5,
    "stop_token_ids": [1],
    "stop_token": "a",
    "skip_special_tokens": True,
  }
  extra |= {"prompt_cache_key": "a", "metadata": [{"keyword": "b"}]}
  Run().open(url="http://h", extra=extra)


def test_dollars_can_only_be_capped_where_there_is_a_price():
  run = Run(Caps(dollars=1.0))
  with pytest.raises(ConfigError, match=r"student\.price_in and .*price_out"):
    run.open(url="http://h")
  run.open(url="http://h", price_in=0.0, price_out=0.0)
  with StubServer(lambda m: "x") as stub:
    free = Run()
    ask(free.open(url=stub.url), request())
  assert free.ledger.spent.unpriced == 1


@pytest.mark.parametrize(
  ("key", "value"),
  [
    *[(key, 0) for key in ("concurrency", "max_response_bytes")],
    ("timeout_s", 0.0),
    *[("requests_per_minute", 0.0), ("retries", -1)],
    *[("price_in", -0.1), ("price_out", -1.0)],
  ],
)
def test_a_number_out_of_bounds_is_refused(key, value):
  tree = tree_of(ChatModelConfig(url="http://h"))
  tree[key] = value
  with pytest.raises(ConfigError, match=rf"config\.{key}={value} must"):
    build(ChatModelConfig, tree)


def test_the_config_goes_through_the_config_tree():
  config = ChatModelConfig(url="http://h", extra={"top_p": 0.5})
  tree = tree_of(config)
  tree.retries = 9
  assert build(ChatModelConfig, tree).retries == 9
  assert build(ChatModelConfig, tree).extra == {"top_p": 0.5}
