"""The config of the proxy: what cannot be is refused at the start."""

import socket

import pytest

from atlas_jax.config import ConfigError, build, tree_of
from atlas_jax.episode_config import TeachConfig
from atlas_jax.online.production.app import serve
from atlas_jax.online.production.config import (
  ChatServerConfig,
  ProxyConfig,
  UpstreamConfig,
  read_keys,
)

URL = "http://127.0.0.1:9/v1"
NAN = float("nan")


def config(*, up=URL, teach=URL, forward=False, **changes) -> ProxyConfig:
  return ProxyConfig(
    upstream=UpstreamConfig(url=up, forward_authorization=forward),
    teacher=ChatServerConfig(url=teach, model="t"),
    **changes,
  )


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"up": "http://me:sk-1@a/v1"}, "upstream.url must hold no user"),
    ({"teach": "http://a/v1?key=sk-1"}, "teacher.url must hold no"),
    ({"up": "http://[a"}, "upstream.url must be an address"),
    ({"port": 99999}, "port=99999 must be from 1 to 65535"),
    *(
      ({name: 0}, f"{name}=0")
      for name in ("answer_timeout_s", "write_timeout_s", "idle_timeout_s")
    ),
    *(
      ({name: 0}, f"{name}=0 must be above 0")
      for name in ("max_connections", "max_held_bytes", "max_response_bytes")
    ),
    ({"body_timeout_s": 0.0}, "body_timeout_s=0.0 must be above 0"),
    ({"teach_deadline_s": NAN}, "teach_deadline_s must be a number, got nan"),
    ({"episode": TeachConfig(-1)}, "episode.max_probe_tokens=-1 must not be"),
    ({"drain_s": -1.0}, "drain_s=-1.0 must not be negative"),
    *(
      ({"allow_origins": ("https://chat.example", origin)}, repr(origin))
      for origin in (
        *("*", "localhost:3000", "http://a/", "HTTP://A", "null", ""),
        "http://a b",
      )
    ),
  ],
)
def test_what_cannot_be_is_refused(changes, words):
  with pytest.raises(ConfigError, match=r"^config\.") as error:
    build(ProxyConfig, tree_of(config(**changes)))
  assert words in str(error.value) and "sk-1" not in str(error.value)


def test_what_is_sampled_greedily_and_never_drained_is_well():
  greedy = TeachConfig(probe_temperature=0.0, teacher_temperature=0.0)
  changed = config(episode=greedy, drain_s=0.0)
  assert build(ProxyConfig, tree_of(changed)) == changed


def test_an_unknown_word_for_the_limit():
  server = ChatServerConfig(url=URL, model="t", max_tokens_key="tokens")
  with pytest.raises(ConfigError, match=r"config\.teacher\.max_tokens_key='to"):
    build(ProxyConfig, tree_of(ProxyConfig(teacher=server)))


def test_a_port_in_use_is_named():
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=f"config.port={port}: .*in use"):
      serve(config(port=port), {})


@pytest.mark.parametrize(
  "host", ["0.0.0.0", "::", "", "10.0.0.1", "box.lan", "127.0.0.1.evil.example"]
)
def test_other_machines_need_a_key(host):
  with pytest.raises(ConfigError, match=r"^config\.host=.*config\.api_key_env"):
    build(ProxyConfig, config(host=host))
  build(ProxyConfig, config(host=host, api_key_env="KEY"))
  build(ProxyConfig, config(host=host, forward=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_this_machine_needs_none(host):
  build(ProxyConfig, config(host=host))


@pytest.mark.parametrize("name", ["api_key_env", "upstream", "teacher"])
def test_a_key_with_a_control_character_is_refused_at_the_start(name):
  changes = {
    "api_key_env": "KEY",
    "upstream": UpstreamConfig(api_key_env="KEY"),
    "teacher": ChatServerConfig(api_key_env="KEY"),
  }
  named = ProxyConfig(**{name: changes[name]})
  key = name if name == "api_key_env" else f"{name}.api_key_env"
  for value in ("sk-1\r", "sk-1\n", "sk\x7f1"):
    with pytest.raises(ConfigError) as error:
      read_keys(named, {"KEY": value})
    text = str(error.value)
    assert f"config.{key}: the variable KEY holds" in text and "sk" not in text
  assert "sk-1" in vars(read_keys(named, {"KEY": "sk-1"})).values()
