"""Evolve teaching prompts: `--config=configs/online.py:VARIANT`.

Variants: default (LiteLLM names; keys from the environment), local (model
directories that the run serves by vLLM itself), agent (an agent of yours is
the student), demo and demo_agent (offline, after the quickstart), qwen05_gym
(texts written by hand against a trained teacher). Any key can be overridden:
`--config.data.source=jsonl --config.data.path=FILE.jsonl
--config.student.model=openai/gpt-5-nano --config.caps.dollars=5.0`.
"""

from atlas_jax.online.search.config import default_config

try:
  from configs import gym_problems, gym_templates, quickstart
except ImportError:  # installed
  from atlas_jax.configs import gym_problems, gym_templates, quickstart


def _default():
  """A small student, a larger teacher, on questions of your own.

  Source: ours, at the size that the ATLAS README gives (2 hours, 10 dollars).
  Hardware: none. Hours: 2 at most. Result: not measured.
  """
  config = default_config()
  config.data.source = "jsonl"
  config.data.path = "data/problems.jsonl"
  config.student.kind = "litellm"
  config.student.model = "openai/gpt-5-nano"
  config.teacher.kind = "litellm"
  config.teacher.model = "openai/gpt-5-mini"
  config.reflection_model.kind = "litellm"
  config.reflection_model.model = "openai/gpt-5"
  # Thinking models spend tokens before they say a word.
  config.episode.max_probe_tokens = 1024
  config.episode.max_teaching_tokens = 2048
  config.episode.max_solution_tokens = 4096
  config.reflection.max_tokens = 16384
  config.caps.dollars = 10.0
  config.caps.minutes = 120.0
  return config


def _local():
  """Two model directories; the teacher also reflects.

  Source: ours. Hardware: what vLLM needs for both. Hours, result: not measured.
  """
  config = default_config()
  config.data.source = "gsm8k"
  config.data.path = "data/gsm8k/train.jsonl"
  config.data.test_path = "data/gsm8k/test.jsonl"
  config.student.kind = "local"
  config.student.model = "models/student"
  config.teacher.kind = "local"
  config.teacher.model = "models/teacher"
  config.reflection_model.kind = "local"
  config.reflection_model.model = "models/teacher"
  for server in (config.servers.student, config.servers.teacher):
    server.max_model_len = 16384
  config.caps.minutes = 120.0
  return config


def _agent():
  """An agent behind HTTP is the student; see configs/agents/ for kinds."""
  config = _default()
  config.agent.kind = "http"
  config.agent.http.url = "http://127.0.0.1:9000/ask"
  config.agent.http.body = {"prompt": "{prompt}"}
  config.agent.http.answer = "answer"
  # What one call of the agent costs you: the cap on dollars counts it.
  config.agent_dollars_per_call = 0.0
  config.search.evolve = ("teacher", "student_taught")
  return config


def _demo():
  """The models of the quickstart, and a scripted reflection model.

  Source: ours. Hardware: two CPU cores. Hours: 0.02, after the quickstart.
  Result: accuracy 0.4% by the seed's wording, 88.3% [83.8, 91.7] by the one
    that was found (seed 0, 256 problems); the student alone 49.2%.
  Command: python -m launchers.optimize --config=configs/online.py:demo \\
        --workdir=runs/evolve

  The quickstart's student was trained on 'Hint:' and understands other words
  badly or not at all. The seed has others; the search finds the right ones.
  """
  config = default_config()
  config.data.source = "teachable"
  config.student.kind = "local"
  config.student.model = quickstart.STUDENT
  config.teacher.kind = "local"
  config.teacher.model = "runs/quickstart/teacher/export"
  config.reflection_model.kind = "callable"
  config.reflection_model.model = "atlas_jax.online.search.demo:reflect"
  config.reflection_model.price_in = 0.0
  config.reflection_model.price_out = 0.0
  config.prompts.update(quickstart.PROMPTS)
  config.prompts.student_taught = (
    "{question} A teacher gives this advice: {teaching}"
  )
  config.search.evolve = ("student_taught",)
  config.search.max_rounds = 8
  config.sizes.minibatch = 8
  config.sizes.validation = 64
  config.sizes.test = 256
  config.episode.max_teaching_tokens = 48
  config.episode.max_solution_tokens = 64
  config.episode.student_temperature = 0.0
  quickstart.small(config.servers.student, core="0")
  quickstart.small(config.servers.teacher, core="1")
  config.caps.calls = 10_000
  return config


def _demo_agent():
  """The demo with its student as an agent, behind HTTP.

  It asks the two servers that launchers.serve starts at ports 8001 and 8002;
  see the guide, atlas_jax/online/README.md.
  """
  config = _demo()
  config.agent.kind = "http"
  config.agent.concurrency = 32
  http = config.agent.http
  http.url = "http://127.0.0.1:8001/v1/chat/completions"
  http.headers = {"Authorization": "Bearer ${ATLAS_SERVER_KEY}"}
  http.body = {
    "model": "student",
    "messages": [{"role": "user", "content": "{prompt}"}],
    "max_tokens": 64,
    "temperature": 0,
  }
  http.answer = "choices[0].message.content"
  http.finish_reason = "choices[0].finish_reason"
  http.prompt_tokens = "usage.prompt_tokens"
  http.completion_tokens = "usage.completion_tokens"
  config.agent_dollars_per_call = 0.0
  config.teacher.kind = "url"
  config.teacher.model = "teacher"
  config.teacher.url = "http://127.0.0.1:8002"
  config.teacher.api_key_env = "ATLAS_SERVER_KEY"
  config.teacher.price_in = config.teacher.price_out = 0.0
  return config


def _qwen05_gym():
  """Prompts written by hand for the tasks of gym_problems.py, chosen by search.

  Source: ours; the rival of the teacher that teacher.py:qwen05_gym trains. Of
    one task: --config.data.source=configs.gym_problems:of_task
    --config.data.params='{"task": "lcm"}'
  Hardware: two CPU cores. Hours, result: not measured.
  Command: python -m launchers.optimize --config=configs/online.py:qwen05_gym \\
        --workdir=runs/gym_evolve
  """
  config = default_config()
  config.data.source = "jsonl"
  config.data.path = "data/gym/train.jsonl"
  config.data.validation_path = "data/gym/validation.jsonl"
  config.data.test_path = "data/gym/test.jsonl"
  config.data.verifier = f"{gym_problems.__name__}:right"
  config.student.kind = config.teacher.kind = "local"
  config.student.model = "models/qwen05-coder"
  config.teacher.model = "models/smollm2-135m"
  config.reflection_model.kind = "callable"
  config.reflection_model.model = f"{gym_templates.__name__}:reflect"
  config.reflection_model.price_in = 0.0
  config.reflection_model.price_out = 0.0
  config.prompts.update(gym_problems.PROMPTS)
  config.search.evolve = ("teacher", "student_taught")
  # Every text that there is, and both templates in turn.
  config.search.max_rounds = 112
  config.search.max_candidates = 112
  config.sizes.minibatch = 12
  config.sizes.validation = 64
  config.sizes.test = 370
  config.objectives.efficiency = 0.0
  config.choosing.fresh_samples = 0
  config.episode.max_probe_tokens = 0
  config.episode.max_teaching_tokens = 96
  config.episode.max_solution_tokens = 96
  config.episode.teacher_temperature = 0.0
  config.episode.student_temperature = 0.0
  for server, core in (
    (config.servers.teacher, "0"),
    (config.servers.student, "1"),
  ):
    server.max_model_len = 1024
    server.kv_cache_bytes = 512 << 20
    server.cpu_cores = core
  config.caps.calls = 50_000
  return config


VARIANTS = {
  "default": _default,
  "local": _local,
  "agent": _agent,
  "demo": _demo,
  "demo_agent": _demo_agent,
  "qwen05_gym": _qwen05_gym,
}


def get_config(variant: str = "default"):
  if variant not in VARIANTS:
    raise ValueError(
      f"unknown variant {variant!r} of configs/online.py; valid:"
      f" {', '.join(VARIANTS)}"
    )
  return VARIANTS[variant]()
