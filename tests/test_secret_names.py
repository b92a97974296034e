"""Keys where a config must not hold them: in addresses, names and commands."""

import pytest

from atlas_jax import addresses, config, config_tree, secret_names
from atlas_jax.config import ConfigError
from atlas_jax.online.agents import config as agent_config
from atlas_jax.online.calls import model_config, variables
from atlas_jax.online.production import once
from atlas_jax.online.search import config as online_config

KEY = "sk-proj-4eC39HqLyjWDarjtT1zdp7dc"


@pytest.mark.parametrize(
  "argv",
  [
    ("-k", KEY),
    (f"-k{KEY}",),
    (f"-k={KEY}",),
    ("-k", "a8f5f167f44f4964e6c998dee827110c"),
    ("-p", KEY),
    (KEY,),
    ("-u", "me:hunter2"),
    ("-ume:hunter2",),
    ("--user", "me@example.com:hunter2"),
    ("--user=me:hunter2",),
    ("--proxy-user", "me:hunter2"),
    ("--pass", "hunter2"),
    ("--api-key=hunter2",),
    ("--token", "hunter2=="),
    ("--password", "hunter2"),
    ("--pass=hunter2",),
    ("--db-pass", "hunter2"),
    ("--pat", "hunter2"),
    ("-H", "Authorization: Bearer hunter2"),
    ("-HAuthorization: Basic aGk6aHVudGVyMg==",),
    ("--header", "X-Api-Key: hunter2"),
    ("--header=Authorization: Bearer hunter2",),
    ("--header=Cookie:session=hunter2",),
    ("-H", "X-Custom: Bearer eyJhbGciOiJIUzI1NiJ9.e30.x"),
    ("-d", '{"model": "m", "api_key": "hunter2"}'),
    ("https://me:hunter2@example.com/v1",),
    ("https://example.com/v1?a=1&api_key=hunter2",),
    ("--url=https://example.com/v1?token=hunter2",),
    ("env", "OPENAI_API_KEY=hunter2", "agent"),
    ("ghp_16C7e42F292c6912E7710c838347Ae178B4a",),
    ("AKIAIOSFODNN7EXAMPLE",),
    ("https://example.com/#access_token=hunter2",),
    ("https://example.com/?api%5Fkey=hunter2",),
    ("bash", "-c", "export OPENAI_API_KEY=hunter2; agent"),
    ("-----BEGIN RSA PRIVATE KEY-----",),
    ("sh", "-c", "curl -H 'X-Api-Key: hunter2' http://127.0.0.1"),
    ("sh", "-c", "curl -sS -u me:hunter2 http://127.0.0.1"),
    ("sh", "-c", "agent --token hunter2 --fast"),
    ("sh", "-c", "agent --api-key=hunter2 'it''s"),
    ("-d", "{'model': 'm', 'api_key': 'hunter2'}"),
    ("xai-4eC39HqLyjWDarjtT1zdp7dc",),
    ("ssh", "host", "export OPENAI_API_KEY=hunter2; agent"),
    ("bash", "-e", "-lc", "sh -c 'agent --token hunter2'"),
    ("-H", "Authorization: bearer hunter2"),
  ],
)
def test_a_key_in_a_command(argv):
  argv = ("agent", "--max-tokens", "9", *argv)
  cli = agent_config.CliAgentConfig(argv=argv)
  agent = agent_config.AgentConfig(kind="cli", cli=cli)
  found = list(config_tree.conflicts(agent, "config"))
  assert found and all("argv[" in text for text in found)
  for text in found:
    assert "\n" not in text and "hunter2" not in text and KEY not in text


@pytest.mark.parametrize(
  "argv",
  [
    ("python", "-u", "script.py"),
    ("python3", "-u", "./agents/script.py", "--port", "8000"),
    ("docker", "run", "-u", "1000:1000", "image:latest"),
    ("docker", "run", "-u", "$UID:$GID", "-p", "8080:80", "-v", "/a:/b"),
    ("curl", "-k", "https://example.com/v1"),
    ("curl", "-k", "--retry", "5", "http://127.0.0.1:8000/v1/models"),
    ("curl", "-u", "$USER:$PASSWORD", "-H", "Content-Type: application/json"),
    ("curl", "-H", "Authorization: $AUTH", "-d", '{"model": "gpt-4o"}'),
    ("agent", "-k", "5", "-t", "0.5", "--top-k", "40", "--max-tokens=100"),
    ("agent", "-k", "./keys/agent.pem", "--api-key-env", "AGENT_KEY"),
    ("agent", "--model", "meta-llama/Meta-Llama-3-8B-Instruct"),
    ("agent", "--model", "hf-internal-testing/tiny-random-gpt2"),
    ("agent", "--system", "Explain it: basic knowledge, token by token."),
    ("agent", "--system=You are a math tutor: answer in <solution> tags"),
    ("docker", "login", "--password-stdin", "registry.example.com"),
    ("task-runner", "--task", "task-12345678-abc", "--auth", "none"),
    ("uv", "run", "--with", "scikit-learn==1.5.2", "agent.py"),
    ("agent", "--tokenizer", "bert-base-uncased", "--keyword", "sums"),
    ("a", "--max-tokens", "9", "--prompt_tokens=9", "--keyword", "b"),
    ("a", "--api-key-file", "k", "--auth", "none", "--token", "--verbose"),
    ("a", "--credentials", "./k.json", "--password=$PW", "b"),
    ("a", "https://b?x=1", "--sort-key=c"),
    ("sh", "-c", 'curl -H "X-Api-Key: $KEY" -u "$USER:$PW" http://127.0.0.1'),
    ("agent", "--system", "It's a rule - use no token twice, say 'why'."),
    ("agent", "--system", "Use --key value for options"),
    ("agent", "--system", "run it with -u user:group please"),
    ("agent", "Reply with JSON {'answer': '...', 'key': '...'}"),
    ("python", "-c", "print(sorted(d, key=len))"),
    *(
      ("sh", "-c", command)
      for command in (
        'curl -H "Authorization: Bearer $KEY" http://127.0.0.1',
        "agent --token `pass show x` --key @file --auth 0",
        "agent --think-token '</think>' --image-token '<image>'",
        "date -u +%H:%M; docker run -u root:root image",
        "make -k test1234; pytest -k test_agent1",
        "agent --api-key EMPTY",
      )
    ),
  ],
)
def test_settings_in_a_command_are_none(argv):
  assert not list(secret_names.in_argv(argv))


def refusal(value) -> str:
  """The error of a config; empty where it is valid."""
  try:
    config_tree.build(type(value), value)
  except ConfigError as error:
    return str(error)
  return ""


NAMES = ("OPENAI_API_KEY", "KEY2", "_K", "http_proxy", "K", "A1_B2_C3_D4_E5_F6")
NO_NAMES = (
  *(KEY, "hunter2", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
  *("AKIAIOSFODNN7EXAMPLE", "a8f5f167f44f4964e6c998dee827110c"),
  *("sk_live_4eC39HqLyjWDarjtT1zdp7dc", "Bearer x", "", " K", "A-B", "1A"),
)


def test_a_key_where_the_name_of_a_variable_belongs():
  assert all(map(secret_names.may_name, NAMES))
  for key in NO_NAMES:
    with pytest.raises(ConfigError, match=r"config\.x must name") as error:
      variables.Credentials({key: "v"}).variable(key, "config.x")
    assert not key or key not in str(error.value)


@pytest.mark.parametrize(
  "configured",
  [
    lambda key: model_config.ChatModelConfig(url="http://a", api_key_env=key),
    *(
      lambda key, kind=kind, part=part: agent_config.AgentConfig(
        kind=kind, **{kind: part(key)}
      )
      for kind, part in (
        (
          "responses",
          lambda k: agent_config.ResponsesAgentConfig("m", api_key_env=k),
        ),
        (
          "agents_sdk",
          lambda k: agent_config.AgentsSdkConfig("a:b", api_key_env=k),
        ),
        ("cli", lambda k: agent_config.CliAgentConfig(("a",), env=(k,))),
      )
    ),
  ],
)
def test_every_config_refuses_it(configured):
  assert not refusal(configured("OPENAI_API_KEY"))
  text = refusal(configured(KEY))
  assert "env must name an environment variable" in text
  assert KEY not in text and "\n" not in text


BAD_URLS = (
  f"http://me:{KEY}@127.0.0.1:8000",
  f"http://{KEY}@127.0.0.1:8000/v1",
  f"http://127.0.0.1:8000/v1?api_key={KEY}",
  f"http://127.0.0.1:8000/v1#{KEY}",
  f"127.0.0.1:8000/{KEY}",
  f"ftp://127.0.0.1/{KEY}",
  f"http://[{KEY}",
  f"http://127.0.0.1:8000/{KEY}/v1",
  f"http://127.0.0.1:8000/%73{KEY[1:]}/v1",
  f"http://127.0.0.1:8000/;token={KEY}",
  f"http://127.0.0.1\n:8000/{KEY[:9]}",
  f"http://127.0.0.1:8000/v1 {KEY[:9]}",
)


@pytest.mark.parametrize("url", BAD_URLS)
@pytest.mark.parametrize("server", ["teacher", "student"])
def test_the_address_of_a_server_of_the_trainer(server, url):
  tree = config.default_config()
  tree.serving[server].url = url
  with pytest.raises(ConfigError) as error:
    config.resolve(tree)
  assert f"config.serving.{server}.url must" in str(error.value)
  assert KEY not in str(error.value)
  tree.serving[server].url = "http://127.0.0.1:8000"
  config.resolve(tree)


@pytest.mark.parametrize("url", BAD_URLS)
def test_addresses_of_the_online_half(url):
  for server in ("teacher", "student", "reflection"):
    tree = config.tree_of(online_config.OnlineConfig())
    for role in ("student", "teacher", "reflection_model"):
      tree[role].url = "http://127.0.0.1:8000"
    tree.servers[server].url = url
    with pytest.raises(ConfigError) as error:
      online_config.resolve(tree)
    text = str(error.value)
    assert f"config.servers.{server}.url must" in text and KEY not in text
  model = model_config.ChatModelConfig(url=url)
  text = refusal(model)
  assert "config.url must" in text and KEY not in text
  if url.startswith("http") and "#" not in url:
    with pytest.raises(ConfigError, match="teacher's address must") as error:
      once.as_teacher(url, None, 1.0, once.Wording())
    assert KEY not in str(error.value)


def test_a_bare_address():
  for url in BAD_URLS[:4]:
    assert KEY not in addresses.bare(url)
  assert addresses.bare("http://u:p@h:1/a?b#c") == "http://h:1/a"
  assert addresses.bare("http://h/\x1b[2J\n") == "http://h/?[2J"
