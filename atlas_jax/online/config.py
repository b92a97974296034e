"""The config tree of an optimisation; a file alone says the whole run.

A file under configs/ starts from `default_config()`. `resolve` refuses
unknown keys, wrong types, and values that would waste a run.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ml_collections import ConfigDict

from atlas_jax import config as config_lib
from atlas_jax import config_checks
from atlas_jax.config import (
  ConfigError,
  DataConfig,
  EpisodeConfig,
  NonNegativeFloat,
  NonNegativeInt,
  PositiveFloat,
  PositiveInt,
  PromptsConfig,
  ServerConfig,
  build,
)
from atlas_jax.online import model_config
from atlas_jax.online.agents import config as agent_config
from atlas_jax.online.agents.config import AgentConfig
from atlas_jax.online.model_config import ChatModelConfig
from atlas_jax.online.spend import Caps
from atlas_jax.teaching.prompts import (
  FIELDS,
  PromptError,
  Prompts,
  load_prompts,
)

# The unaided solution is the measure: it stays as it is.
EVOLVABLE = tuple(name for name in FIELDS if name != "student_baseline")


@dataclass(frozen=True)
class ObjectivesConfig:
  """Weights of a rollout's score, which is within 0 and 1."""

  accuracy: NonNegativeFloat = 1.0
  non_degradation: NonNegativeFloat = 0.5
  efficiency: NonNegativeFloat = 0.1  # tokens that a right response saved
  completion: NonNegativeFloat = 0.0  # an answer is stated
  leak_penalty: NonNegativeFloat = 1.0  # the teaching states the answer


@dataclass(frozen=True)
class SizesConfig:
  """Problems of each split; all there are where there are fewer."""

  train: PositiveInt = 64
  minibatch: PositiveInt = 4  # train problems a round
  validation: PositiveInt = 50
  test: PositiveInt = 200  # below 150 a gain is easily missed


@dataclass(frozen=True)
class SearchConfig:
  """What is evolved, and for how long; config.caps may end it before."""

  evolve: tuple[str, ...] = EVOLVABLE  # the other templates are held fixed
  # Templates that a round rewrites: the parent's next one, or all.
  update: Literal["round_robin", "all"] = "round_robin"
  # How gepa chooses whom to improve.
  parents: Literal[
    "pareto", "current_best", "epsilon_greedy", "top_k_pareto"
  ] = "pareto"
  max_rounds: PositiveInt = 30
  max_candidates: PositiveInt = 16  # accepted ones, the seed included


@dataclass(frozen=True)
class ReflectionConfig:
  """How the reflection model is asked; see reflection.py."""

  max_tokens: PositiveInt = 4096
  temperature: NonNegativeFloat = 1.0
  attempts: PositiveInt = 2  # a round, after a refused proposal
  max_prompt_chars: PositiveInt = 4000  # of a proposed template
  max_example_chars: PositiveInt = 1500  # of each text that it is shown
  remembered: NonNegativeInt = 4  # refused proposals that it is told
  max_failures: PositiveInt = 6  # in a row, then the search ends


@dataclass(frozen=True)
class ChoosingConfig:
  """Which prompts are kept; see choosing.py."""

  best_of: PositiveInt = 3  # best on validation that are scored again
  # Fresh samples of each validation problem; 0: the search's scores are used.
  fresh_samples: NonNegativeInt = 2
  # Share of the problems that teaching must not make worse.
  non_degradation_floor: NonNegativeFloat = 0.9
  # Ask that the interval of the gain over the seed, on the test split,
  # excludes 0.
  require_proof: bool = False
  bootstrap_resamples: PositiveInt = 10_000


@dataclass(frozen=True)
class ServersConfig:
  """Servers that the run starts for models of kind 'local'."""

  student: ServerConfig = field(default_factory=ServerConfig)
  teacher: ServerConfig = field(default_factory=ServerConfig)
  reflection: ServerConfig = field(default_factory=ServerConfig)
  start_timeout_s: PositiveFloat = 600.0


@dataclass(frozen=True)
class OnlineConfig:
  """An optimisation. With agent.kind set the agent is the student."""

  seed: int = 0
  data: DataConfig = field(default_factory=DataConfig)
  sizes: SizesConfig = field(default_factory=SizesConfig)
  prompts: PromptsConfig = field(default_factory=PromptsConfig)
  # A best_prompts.json to start from: its templates replace config.prompts.
  prompts_path: str | None = None
  student: ChatModelConfig = field(default_factory=ChatModelConfig)
  teacher: ChatModelConfig = field(default_factory=ChatModelConfig)
  reflection_model: ChatModelConfig = field(default_factory=ChatModelConfig)
  agent: AgentConfig = field(default_factory=AgentConfig)
  # Of one call of the agent; a cap on dollars needs it.
  agent_dollars_per_call: NonNegativeFloat | None = None
  # Characters of its unaided answer that the teacher reads in place of a
  # probe; what is cut off is shown as [...].
  agent_probe_chars: PositiveInt = 4000
  servers: ServersConfig = field(default_factory=ServersConfig)
  episode: EpisodeConfig = field(default_factory=EpisodeConfig)
  objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
  search: SearchConfig = field(default_factory=SearchConfig)
  reflection: ReflectionConfig = field(default_factory=ReflectionConfig)
  choosing: ChoosingConfig = field(default_factory=ChoosingConfig)
  caps: Caps = field(default_factory=Caps)

  @property
  def agent_mode(self) -> bool:
    return self.agent.kind is not None


def default_config() -> ConfigDict:
  """The whole tree of an optimisation, with every default."""
  return config_lib.tree_of(OnlineConfig())


def resolve(tree: ConfigDict) -> OnlineConfig:
  """The OnlineConfig that `tree` describes, prompts_path read.

  Raises:
    ConfigError: an unknown key, a wrong type, or a value that is not valid.
    PromptError: the file of prompts_path is not one.
  """
  config = build(OnlineConfig, tree)
  if config.prompts_path is not None:
    prompts = load_prompts(config.prompts_path)
    config = dataclasses.replace(config, prompts=prompts)
  problem = next(problems(config), None)
  if problem is not None:
    raise ConfigError(problem)
  return config


def problems(config: OnlineConfig) -> Iterator[str]:
  """One line for each value that is not valid: the key and what is."""
  for role in ("student", "teacher", "reflection"):
    server = getattr(config.servers, role)
    yield from config_checks.server(server, f"config.servers.{role}")
  yield from config_checks.verifier(config.data)
  yield from config_checks.template_kwargs(config.episode, "config.episode")
  yield from _template_problems(config)
  yield from _model_problems(config)
  yield from _student_problems(config)
  yield from _search_problems(config)
  yield from _choosing_problems(config)


def _template_problems(config: OnlineConfig) -> Iterator[str]:
  """Lines for arguments of chat templates that would reach no server."""
  kwargs = config.episode.chat_template_kwargs
  for part, role in (
    ("probe", "student"),
    ("student", "student"),
    ("teacher", "teacher"),
  ):
    kind = getattr(config, role).kind
    if role == "student" and config.agent_mode:
      kind = "agent"
    if getattr(kwargs, part) and kind not in ("url", "local"):
      yield (
        f"config.episode.chat_template_kwargs.{part} has no effect on a"
        f" {role} of kind {kind!r}; valid for 'url' and 'local'"
      )


def _model_problems(config: OnlineConfig) -> Iterator[str]:
  for role in ("student", "teacher", "reflection_model"):
    model, where = getattr(config, role), f"config.{role}"
    if role == "student" and config.agent_mode:
      continue
    if model.kind == "local":
      if model.model is None:
        yield f"{where}.model must be a model directory with kind='local'"
    else:
      yield from model_config.problems(model, where)


def _student_problems(config: OnlineConfig) -> Iterator[str]:
  price = config.agent_dollars_per_call
  if not config.agent_mode:
    if price is not None:
      yield (
        f"config.agent_dollars_per_call={price:g} has no effect without"
        " config.agent.kind"
      )
    return
  yield from agent_config.problems(config.agent, "config.agent")
  if config.caps.dollars is not None and price is None:
    yield (
      "config.caps.dollars cannot hold an agent whose calls have no price; set"
      " config.agent_dollars_per_call (0.0 is a price), or cap calls"
    )
  if config.caps.tokens is not None:
    yield (
      "config.caps.tokens cannot hold an agent: how many tokens a call takes"
      " is not known beforehand; cap calls, dollars or minutes"
    )


def _search_problems(config: OnlineConfig) -> Iterator[str]:
  evolve = config.search.evolve
  unknown = [name for name in evolve if name not in EVOLVABLE]
  if unknown or not evolve or len(set(evolve)) < len(evolve):
    yield (
      f"config.search.evolve={evolve} must name one or more of"
      f" {', '.join(EVOLVABLE)}, each once"
    )
    return
  if config.agent_mode and "student_probe" in evolve:
    yield (
      "config.search.evolve holds student_probe, but an agent is not"
      " probed: its unaided answer is its plan"
    )
  try:
    Prompts(config.prompts)
  except PromptError as error:
    yield f"config.prompts: {error}"
  for name in evolve:
    length = len(getattr(config.prompts, name))
    if length > config.reflection.max_prompt_chars:
      yield (
        f"config.prompts.{name} has {length} characters, more than"
        f" config.reflection.max_prompt_chars="
        f"{config.reflection.max_prompt_chars} allows a template"
      )
  o = config.objectives
  if o.accuracy + o.non_degradation + o.efficiency + o.completion <= 0:
    yield "config.objectives: at least one weight must be above 0"
  if config.sizes.minibatch > config.sizes.train:
    yield (
      f"config.sizes.minibatch={config.sizes.minibatch} must not be above"
      f" config.sizes.train={config.sizes.train}"
    )


def _choosing_problems(config: OnlineConfig) -> Iterator[str]:
  c = config.choosing
  if c.non_degradation_floor > 1:
    yield (
      f"config.choosing.non_degradation_floor={c.non_degradation_floor} is a"
      " share: at most 1"
    )
  hottest = max(
    config.episode.probe_temperature,
    config.episode.teacher_temperature,
    config.episode.student_temperature,
  )
  if c.fresh_samples > 0 and hottest == 0 and not config.agent_mode:
    yield (
      f"config.choosing.fresh_samples={c.fresh_samples} at temperature 0 would"
      " be the same samples again; set it to 0, or raise"
      " config.episode.teacher_temperature"
    )
