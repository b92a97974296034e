"""Who is asked in an optimisation, and about which problems."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from atlas_jax.data import splits
from atlas_jax.data.problems import SPLITS
from atlas_jax.data.splits import Splits
from atlas_jax.online.agents.build import open_agent
from atlas_jax.online.calls.asker import Asker
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.models import open_model
from atlas_jax.online.calls.pricing import CallPrice, TokenPrice
from atlas_jax.online.calls.record import Record
from atlas_jax.online.calls.speakers import AskerSpeaker
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.serving.events import EventLoop


def chosen_problems(config: OnlineConfig) -> Splits:
  """The problems of each split, config.sizes of them at most.

  Raises:
    DataError: a split is empty, or the data cannot be read.
  """
  found, source = splits.load(config.data), config.data.source
  sizes, seed = vars(config.sizes), config.seed
  return Splits(
    *(
      splits.sample(found, name, sizes[name], source=source, seed=seed)
      for name in SPLITS
    )
  )


@dataclass(frozen=True)
class Models:
  """Who is asked, by coroutines of `loop`, on the account of `ledger`."""

  student: AskerSpeaker
  teacher: AskerSpeaker
  reflection: Asker
  loop: EventLoop
  ledger: Ledger

  def price(self, role: str) -> TokenPrice | CallPrice:
    """Of the calls of a role."""
    if role == "reflection":
      return self.reflection.price
    speaker = self.teacher if role == "teacher" else self.student
    return speaker.asker.price


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
  account = {"environ": environ, "ledger": ledger, "record": record}
  with contextlib.ExitStack() as stack:
    stack.callback(loop.close)

    def opened(open_one, key: str, **more) -> Asker:
      where, given = f"config.{key}", getattr(config, key)
      asker = open_one(given, where=where, **more, **account)
      stack.callback(lambda: loop.run(asker.aclose()))
      return asker

    def model(key: str) -> Asker:
      return opened(open_model, key, endpoint=endpoints.get(key))

    teacher, reflection = model("teacher"), model("reflection_model")
    dollars = config.agent_dollars_per_call
    if config.agent_mode:
      student = opened(open_agent, "agent", dollars_per_call=dollars)
    else:
      student = model("student")
    kwargs = config.episode.chat_template_kwargs
    yield Models(
      AskerSpeaker(student, kwargs),
      AskerSpeaker(teacher, kwargs),
      *(reflection, loop, ledger),
    )
