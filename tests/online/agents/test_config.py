"""Configs of agents: what is refused, and that each file builds."""

import importlib
import os

import pytest

from atlas_jax.config import ConfigError, build, tree_of
from atlas_jax.online.agents.build import open_agent
from atlas_jax.online.agents.config import AgentConfig
from tests.online.agents.asked import KINDS, opened

BODY = {"q": "{prompt}"}
HTTP = {"url": "http://a", "body": BODY}


@pytest.mark.parametrize("kind", KINDS)
def test_each_file_builds_and_names_its_kind(kind):
  tree = importlib.import_module(f"configs.agents.{kind}").get_config()
  config = build(AgentConfig, tree)
  assert config.kind == kind
  assert build(AgentConfig, tree_of(config)) == config
  if kind == "agents_sdk":
    return  # opened where the package is, in test_agents_sdk.py
  open_agent(
    config, where="config", environ={**os.environ, "OPENAI_API_KEY": "k"}
  )


@pytest.mark.parametrize(
  ("kind", "keys", "message"),
  [
    ("http", {}, "config.http.url=None must be an http"),
    ("http", {"url": "ftp://a"}, "config.http.url must be an http"),
    (
      "http",
      HTTP | {"url": "http://me:pw@a"},
      "must be an http:// or https:// address without user and",
    ),
    ("http", {"url": "http://a"}, "config.http.body or query must hold {p"),
    ("http", HTTP | {"answer": "a["}, "config.http.answer='a[' must be a path"),
    ("http", HTTP | {"method": "post"}, "config.http.method='post' must be"),
    (
      "http",
      HTTP | {"headers": {"X-Api-Key": "sk-1"}},
      "config.http.headers['X-Api-Key'] looks like a secret",
    ),
    (
      "http",
      HTTP | {"headers": {"X-Api-Key": "${MISSING}"}},
      "config.http: the variable MISSING is not set",
    ),
    (
      "http",
      HTTP | {"headers": {"X-Api-Key": "${BROKEN}"}},
      "the variable BROKEN holds a line break",
    ),
    (
      "http",
      HTTP | {"headers": {"X-A": "a\nX-B: b"}},
      "config.http.headers['X-A'] is no header of one line",
    ),
    (
      "http",
      HTTP | {"query": {"api_key": "sk-1"}},
      "config.http.query['api_key'] looks like a secret",
    ),
    (
      "http",
      HTTP | {"url": "http://a/b?x=1&access_token=sk-secret"},
      "config.http.url looks like a secret",
    ),
    (
      "http",
      HTTP | {"body": BODY | {"a": [{"apiKey": "sk-secret"}]}},
      "config.http.body['a'][0]['apiKey'] looks like a secret",
    ),
    (
      "http",
      HTTP | {"body": BODY | {"a": "${MISSING}"}},
      "config.http: the variable MISSING is not set",
    ),
    *[
      (
        "http",
        HTTP | {"headers": {name: "sk-secret"}},
        f"config.http.headers['{name}'] looks like a secret",
      )
      for name in ("X-Auth", "Auth", "Ocp-Apim-Subscription-Key")
    ],
    # More of them in tests/test_secret_names.py.
    (
      "cli",
      {"argv": ("a", "--max-tokens", "9", "--api-key", "sk-secret")},
      "config.cli.argv[4] looks like a secret",
    ),
    ("http", HTTP | {"url": "http://a/{prompt}"}, "config.http.url must not"),
    ("http", HTTP | {"url": "http://[a"}, "must be an http:// or https://"),
    ("cli", {}, "config.cli.argv must name a command"),
    *(
      ("http", HTTP | changed, "looks like a secret")
      for changed in (
        {"headers": {"X-Custom": "Bearer sk-secret-0123456789"}},
        *(
          {"url": f"http://a/b{rest}"}
          for rest in (
            *("/sk-secret-0123456789/c", "#sk-secret-0123456789"),
            *("#access_token=sk-secret", ";api_key=sk-secret"),
            *("?api%5Fkey=sk-secret", "?q=sk-secret-0123456789"),
          )
        ),
        {"body": {"q": "{prompt} sk-secret-0123456789"}},
        {"headers": {"X": "${HOME} sk-secret-0123456789"}},
        {"body": {"q": "{prompt}", "to": "https://h/?token=sk-secret"}},
        {"query": {"q": "{prompt}", "who": "ghp_16C7e42F292c6912E7710c83"}},
        {"body": {"q": "{prompt}", "a": [{"b": "sk-secret-0123456789"}]}},
      )
    ),
    (
      "cli",
      {"argv": ("{prompt}", "a"), "prompt_by": "argument"},
      "config.cli.argv[0] is the command and must not hold the prompt",
    ),
    (
      "cli",
      {"argv": ("/bin/bash", "-lc", "a {prompt}"), "prompt_by": "argument"},
      "config.cli.argv gives {prompt} to a shell as a command",
    ),
    (
      "cli",
      {
        "argv": ("env", "sh", "-c", "-e", "{prompt}"),
        "prompt_by": "argument",
      },
      "config.cli.argv gives {prompt} to a shell as a command",
    ),
    ("cli", {"argv": ("a", "{prompt}")}, "holds {prompt} 1 times"),
    ("cli", {"argv": ("a",), "prompt_by": "file"}, "holds {prompt_file} 0"),
    ("cli", {"argv": ("a",), "prompt_by": "pipe"}, "is not one of stdin, file"),
    ("cli", {"argv": ("a",), "output_regex": "("}, "config.cli.output_regex="),
    ("cli", {"argv": ("a",), "env": ("MISSING",)}, "variable MISSING is not"),
    (
      "cli",
      {"argv": ("a",), "output_regex": "a", "output_path": "a"},
      "exclude each other",
    ),
    ("responses", {"api_key_env": None}, "config.responses.model is missing"),
    ("responses", {"model": "m"}, "the variable OPENAI_API_KEY is not set"),
    (
      "responses",
      {"model": "m", "extra": {"stream": True}},
      "config.responses.extra must not hold 'stream'",
    ),
    (
      "responses",
      {"model": "m", "extra": {"extra_headers": {"X-Api-Key": "sk-secret"}}},
      "config.responses.extra['extra_headers']['X-Api-Key'] looks like",
    ),
    (
      "responses",
      {"model": "m", "extra": {"tools": [{"authorization": "sk-secret"}]}},
      "config.responses.extra['tools'][0]['authorization'] looks like",
    ),
    *(
      (
        "responses",
        {"model": "m", "extra": extra},
        "would be shared by all prompts",
      )
      for extra in (
        {"previous_response_id": "resp_1"},
        {"conversation": {"id": "conv_1"}},
        {"extra_body": {"conversation": "conv_1"}},
        {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
      )
    ),
    (
      "responses",
      {"model": "m", "base_url": "http://me:sk-secret@a/v1"},
      "config.responses.base_url must hold no user, password or query",
    ),
    (
      "agents_sdk",
      {"target": "a:b", "base_url": "http://me:sk-secret@a/v1"},
      "config.agents_sdk.base_url must hold no user, password or query",
    ),
    ("agents_sdk", {"target": "a"}, "config.agents_sdk.target='a' must be"),
    ("agents_sdk", {"target": "a:b", "max_turns": 0}, "=0 must be above 0"),
    ("agents_sdk", {"target": "a:b", "api": "x"}, "is not one of responses"),
  ],
)
def test_what_is_refused(kind, keys, message):
  environ = {"BROKEN": "sk-secret\nX-Other: 1"}
  with pytest.raises(ConfigError) as error:
    opened(kind, keys, environ=environ)
  assert message in str(error.value)
  assert "\n" not in str(error.value) and "sk-secret" not in str(error.value)


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (AgentConfig(), "config.agent.kind must be one of http, python, cli"),
    (AgentConfig(kind="htpp"), "config.agent.kind='htpp' is not one of http"),
    (
      AgentConfig(kind="http", timeout_s=0.0),
      "config.agent.timeout_s=0.0 must",
    ),
    (AgentConfig(kind="http", retries=-1), "config.agent.retries=-1 must not"),
    (
      AgentConfig(kind="http", concurrency=0),
      "config.agent.concurrency=0 must",
    ),
    (
      AgentConfig(kind="openai_assistant"),
      "config.agent.kind='openai_assistant' is not one of http, python, cli,"
      " responses, agents_sdk (the OpenAI Assistants API ended on"
      " 2026-08-26. Use kind='responses'",
    ),
  ],
)
def test_what_is_refused_of_every_kind(config, message):
  with pytest.raises(ConfigError) as error:
    open_agent(config, where="config.agent", environ={})
  assert str(error.value).startswith(message)


@pytest.mark.parametrize(
  ("kind", "keys"),
  [
    # A positional parameter of a shell is not run.
    (
      "cli",
      {
        "argv": ("sh", "-c", 'cat "$1"', "sh", "{prompt}"),
        "prompt_by": "argument",
      },
    ),
    # -c of another program is its own.
    ("cli", {"argv": ("talk", "-c", "{prompt}"), "prompt_by": "argument"}),
    ("http", HTTP | {"query": {"max_tokens": "9"}}),
    (
      "responses",
      {
        "model": "m",
        "api_key_env": None,
        "extra": {"tools": [{"container": {"type": "auto"}}]},
      },
    ),
    ("http", HTTP | {"url": "http://a?key=${KEY}"}),
    ("http", HTTP | {"body": BODY | {"key": "${KEY}", "token": 3}}),
    ("http", HTTP | {"body": {"key": "{prompt}"}}),
  ],
)
def test_what_is_not_refused(kind, keys):
  opened(kind, keys, environ={"KEY": "k"})
