"""Who is asked in an optimisation, and about which problems."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from atlas_jax.data import splits
from atlas_jax.data.problems import Problem
from atlas_jax.online.agents.recorded_agent import open_recorded_agent
from atlas_jax.online.calls.calls import ChatModel
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.models import open_model
from atlas_jax.online.calls.record import Record
from atlas_jax.online.calls.speakers import AgentSpeaker, ModelSpeaker
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.serving.events import EventLoop


@dataclass(frozen=True)
class Sets:
  """The problems of a run, by what they are for."""

  train: tuple[Problem, ...]
  validation: tuple[Problem, ...]
  test: tuple[Problem, ...]


def chosen_problems(config: OnlineConfig) -> Sets:
  """The problems of each split, config.sizes of them at most.

  Raises:
    DataError: a split is empty, or the data cannot be read.
  """
  found = splits.load(config.data)
  source = config.data.source

  def take(name: str) -> tuple[Problem, ...]:
    wanted = getattr(config.sizes, name)
    return tuple(
      splits.sample(found, name, wanted, source=source, seed=config.seed)
    )

  return Sets(take("train"), take("validation"), take("test"))


@dataclass(frozen=True)
class Models:
  """Who is asked, by coroutines of `loop`, on the account of `ledger`.

  prices: role -> dollars per million (prompt, completion) tokens, of an agent
  dollars a call; None: unpriced.
  """

  student: AgentSpeaker | ModelSpeaker
  teacher: ModelSpeaker
  reflection: ChatModel
  loop: EventLoop
  ledger: Ledger
  prices: Mapping[str, tuple[float, float] | float | None]


@contextlib.contextmanager
def opened(
  config: OnlineConfig,
  environ: Mapping[str, str],
  record: Record,
  endpoints: Mapping[str, str],
) -> Iterator[Models]:
  """Opens what config names; nothing is sent. All is closed at the end.

  Args:
    config, environ, record: of the run.
    endpoints: role -> what the record calls its server, where that is not
      the address.

  Raises:
    ConfigError: a value is wrong or a variable is missing.
  """
  ledger, loop = record.ledger(config.caps), EventLoop()
  kwargs = config.episode.chat_template_kwargs
  account = {"environ": environ, "ledger": ledger, "record": record}

  def model(key: str) -> ChatModel:
    return open_model(
      getattr(config, key),
      where=f"config.{key}",
      endpoint=endpoints.get(key),
      **account,
    )

  with contextlib.ExitStack() as stack:
    stack.callback(loop.close)

    def closed(one):
      stack.callback(lambda: loop.run(one.aclose()))
      return one

    teacher = closed(model("teacher"))
    reflection = closed(model("reflection_model"))
    if config.agent_mode:
      price = config.agent_dollars_per_call
      agent = open_recorded_agent(
        config.agent, where="config.agent", dollars_per_call=price, **account
      )
      student = closed(AgentSpeaker(agent))
    else:
      asked = model("student")
      price, student = (
        asked.price.per_million,
        closed(ModelSpeaker(asked, kwargs)),
      )
    yield Models(
      student,
      ModelSpeaker(teacher, kwargs),
      reflection,
      loop,
      ledger,
      {
        **dict.fromkeys(
          ("student_baseline", "student_probe", "student_taught"), price
        ),
        "teacher": teacher.price.per_million,
        "reflection": reflection.price.per_million,
      },
    )
