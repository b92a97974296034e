"""The config tree of an optimisation; a file alone says the whole run.

A file under configs/ starts from `default_config()`. `resolve` refuses
unknown keys, wrong types, and values that would waste a run.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from ml_collections import ConfigDict

from atlas_jax import config as config_lib
from atlas_jax.config import (
  DataConfig,
  EpisodeConfig,
  PromptsConfig,
)
from atlas_jax.config_tree import (
  NonNegativeFloat,
  NonNegativeInt,
  PositiveFloat,
  PositiveInt,
  Seed,
  Share,
  Valid,
  tree_of,
)
from atlas_jax.online.agents.config import AgentConfig
from atlas_jax.online.calls.ledger import Caps
from atlas_jax.online.calls.model_config import ChatModelConfig
from atlas_jax.server_config import ServerConfig
from atlas_jax.teaching.prompts import FIELDS

# The keys of those who are asked.
ROLES = ("student", "teacher", "reflection_model")
# The unaided solution is the measure: it stays as it is.
EVOLVABLE = tuple(name for name in FIELDS if name != "student_baseline")
_EVOLVE = Valid(
  f"must name one or more of {', '.join(EVOLVABLE)}, each once",
  lambda names: names and len({*names} & {*EVOLVABLE}) == len(names),
)


@dataclass(frozen=True)
class ObjectivesConfig:
  """Weights of a rollout's score, which is within 0 and 1."""

  accuracy: NonNegativeFloat = 1.0
  non_degradation: NonNegativeFloat = 0.5
  efficiency: NonNegativeFloat = 0.1  # tokens that a right response saved
  completion: NonNegativeFloat = 0.0  # an answer is stated
  leak_penalty: NonNegativeFloat = 1.0  # the teaching states the answer

  def conflicts(self) -> Iterator[str]:
    gains = self.accuracy + self.non_degradation
    if gains + self.efficiency + self.completion == 0:
      yield "accuracy=0: at least one weight must be above 0"


@dataclass(frozen=True)
class SizesConfig:
  """Problems of each split; all there are where there are fewer."""

  train: PositiveInt = 64
  minibatch: PositiveInt = 4  # train problems a round
  validation: PositiveInt = 50
  test: PositiveInt = 200  # below 150 a gain is easily missed

  def conflicts(self) -> Iterator[str]:
    if self.minibatch > self.train:
      yield (
        f"minibatch={self.minibatch} must not be above config.sizes.train="
        f"{self.train}"
      )


@dataclass(frozen=True)
class SearchConfig:
  """What is evolved, and for how long; config.caps may end it before.

  A round rewrites one template of one candidate: its next one.
  """

  # The other templates are held fixed.
  evolve: Annotated[tuple[str, ...], _EVOLVE] = EVOLVABLE
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
  non_degradation_floor: Share = 0.9
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

  def conflicts(self) -> Iterator[str]:
    for role in ("student", "teacher", "reflection"):
      if getattr(self, role).urls:
        yield f"{role}.urls: an optimisation asks one server a role, its url"


@dataclass(frozen=True)
class OnlineConfig:
  """An optimisation. With agent.kind set the agent is the student."""

  seed: Seed = 0
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

  @property
  def unread(self) -> tuple[str, ...]:
    return ("student",) if self.agent_mode else ("agent",)

  def conflicts(self) -> Iterator[str]:
    most = self.reflection.max_prompt_chars
    for name in self.search.evolve:
      length = len(getattr(self.prompts, name))
      if length > most:
        yield (
          f"prompts.{name} has {length} characters, more than"
          f" config.reflection.max_prompt_chars={most} allows a template"
        )
    student = "agent" if self.agent_mode else self.student.kind
    for part, given in vars(self.episode.chat_template_kwargs).items():
      role = "teacher" if part == "teacher" else "student"
      kind = self.teacher.kind if role == "teacher" else student
      if given and kind not in ("url", "local"):
        yield (
          f"episode.chat_template_kwargs.{part} has no effect on a {role} of"
          f" kind {kind!r}; valid for 'url' and 'local'"
        )
    yield from self._of_agent() if self.agent_mode else self._of_model()

  def _of_agent(self) -> Iterator[str]:
    if "student_probe" in self.search.evolve:
      yield (
        "search.evolve holds student_probe, but an agent is not probed: its"
        " unaided answer is its plan"
      )
    if self.caps.dollars is not None and self.agent_dollars_per_call is None:
      yield (
        "caps.dollars cannot hold an agent whose calls have no price; set"
        " config.agent_dollars_per_call (0.0 is a price), or cap calls"
      )
    if self.caps.tokens is not None:
      yield (
        "caps.tokens cannot hold an agent: how many tokens a call takes is not"
        " known beforehand; cap calls, dollars or minutes"
      )

  def _of_model(self) -> Iterator[str]:
    price, fresh = self.agent_dollars_per_call, self.choosing.fresh_samples
    if price is not None:
      yield f"agent_dollars_per_call={price:g} has no effect without agent.kind"
    e = self.episode
    hottest = max(e.probe_temperature, e.teacher_temperature)
    if fresh > 0 and max(hottest, e.student_temperature) == 0:
      yield (
        f"choosing.fresh_samples={fresh} at temperature 0 would be the same"
        " again; set it to 0, or raise config.episode.teacher_temperature"
      )


def default_config() -> ConfigDict:
  """The whole tree of an optimisation, with every default."""
  return tree_of(OnlineConfig())


# As config.resolve.
resolve = functools.partial(config_lib.resolve, cls=OnlineConfig)
