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


A_SECRET = "looks like a secret"
SHAPED = "sk-secret-0123456789"
SHARED = "would be shared by all prompts"
TO_A_SHELL = "config.cli.argv gives {prompt} to a shell as a command"
BASE = "base_url must hold no user, password or query"
# More secrets in tests/test_secret_names.py.
HTTP_REFUSED = [
  ({"url": None}, "config.http.url=None must be an http"),
  ({"url": "ftp://a"}, "config.http.url must be an http"),
  ({"url": "http://me:pw@a"}, "must be an http:// or https:// address without"),
  ({"url": "http://[a"}, "must be an http:// or https://"),
  ({"url": "http://a/{prompt}"}, "config.http.url must not"),
  ({"body": {}}, "config.http.body or query must hold {p"),
  ({"answer": "a["}, "config.http.answer='a[' must be a path"),
  ({"method": "post"}, "config.http.method='post' must be"),
  ({"headers": {"X": "${MISSING}"}}, "http: the variable MISSING is not set"),
  ({"body": BODY | {"a": "${MISSING}"}}, "the variable MISSING is not set"),
  ({"headers": {"X": "${BROKEN}"}}, "the variable BROKEN holds a line break"),
  ({"headers": {"X-A": "a\nX: b"}}, "headers['X-A'] is no header of one line"),
  ({"query": {"api_key": "sk-1"}}, f"config.http.query['api_key'] {A_SECRET}"),
  (
    {"body": BODY | {"a": [{"apiKey": "sk-secret"}]}},
    f"config.http.body['a'][0]['apiKey'] {A_SECRET}",
  ),
  *(
    ({"headers": {name: "sk-1"}}, f"config.http.headers['{name}'] {A_SECRET}")
    for name in ("X-Api-Key", "X-Auth", "Auth", "Ocp-Apim-Subscription-Key")
  ),
  *(
    ({"url": f"http://a/b{rest}"}, f"config.http.url {A_SECRET}")
    for rest in (
      *(f"/{SHAPED}/c", f"#{SHAPED}", "?x=1&access_token=sk-secret"),
      *("#access_token=sk-secret", ";api_key=sk-secret"),
      *("?api%5Fkey=sk-secret", f"?q={SHAPED}"),
    )
  ),
  *(
    (changed, A_SECRET)
    for changed in (
      {"headers": {"X-Custom": f"Bearer {SHAPED}"}},
      {"headers": {"X": "${HOME} " + SHAPED}},
      {"body": {"q": "{prompt} " + SHAPED}},
      {"body": BODY | {"to": "https://h/?token=sk-secret"}},
      {"body": BODY | {"a": [{"b": SHAPED}]}},
      {"query": BODY | {"who": "ghp_16C7e42F292c6912E7710c83"}},
    )
  ),
]
CLI_REFUSED = [
  ({}, "config.cli.argv must name a command"),
  (
    {"argv": ("a", "--max-tokens", "9", "--api-key", "sk-secret")},
    f"config.cli.argv[4] {A_SECRET}",
  ),
  (
    {"argv": ("{prompt}", "a"), "prompt_by": "argument"},
    "config.cli.argv[0] is the command and must not hold the prompt",
  ),
  *(
    ({"argv": argv, "prompt_by": "argument"}, TO_A_SHELL)
    for argv in (
      ("/bin/bash", "-lc", "a {prompt}"),
      ("env", "sh", "-c", "-e", "{prompt}"),
    )
  ),
  ({"argv": ("a", "{prompt}")}, "holds {prompt} 1 times"),
  ({"argv": ("a",), "prompt_by": "file"}, "holds {prompt_file} 0"),
  ({"argv": ("a",), "prompt_by": "pipe"}, "is not one of stdin, file"),
  ({"argv": ("a",), "output_regex": "("}, "config.cli.output_regex="),
  ({"argv": ("a",), "env": ("MISSING",)}, "variable MISSING is not"),
  (
    {"argv": ("a",), "output_regex": "a", "output_path": "a"},
    "exclude each other",
  ),
]
RESPONSES_REFUSED = [
  ({"model": None, "api_key_env": None}, "config.responses.model is missing"),
  ({}, "the variable OPENAI_API_KEY is not set"),
  ({"base_url": "http://me:sk-secret@a/v1"}, f"config.responses.{BASE}"),
  *(
    ({"extra": extra}, message)
    for extra, message in (
      ({"stream": True}, "config.responses.extra must not hold 'stream'"),
      (
        {"extra_headers": {"X-Api-Key": "sk-secret"}},
        f"config.responses.extra['extra_headers']['X-Api-Key'] {A_SECRET}",
      ),
      (
        {"tools": [{"authorization": "sk-secret"}]},
        f"config.responses.extra['tools'][0]['authorization'] {A_SECRET}",
      ),
      ({"previous_response_id": "resp_1"}, SHARED),
      ({"conversation": {"id": "conv_1"}}, SHARED),
      ({"extra_body": {"conversation": "conv_1"}}, SHARED),
      ({"tools": [{"type": "code_interpreter", "container": "c_1"}]}, SHARED),
    )
  ),
]
SDK_REFUSED = [
  ({"base_url": "http://me:sk-secret@a/v1"}, f"config.agents_sdk.{BASE}"),
  ({"target": "a"}, "config.agents_sdk.target='a' must be"),
  ({"max_turns": 0}, "=0 must be above 0"),
  ({"api": "x"}, "is not one of responses"),
]


@pytest.mark.parametrize(
  ("kind", "keys", "message"),
  [
    *(("http", HTTP | keys, message) for keys, message in HTTP_REFUSED),
    *(("cli", *refused) for refused in CLI_REFUSED),
    *(("responses", {"model": "m"} | k, m) for k, m in RESPONSES_REFUSED),
    *(("agents_sdk", {"target": "a:b"} | k, m) for k, m in SDK_REFUSED),
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
