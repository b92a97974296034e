"""Who is asked in an optimisation, and about which problems."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from atlas_jax.data import splits
from atlas_jax.data.problems import SPLITS
from atlas_jax.data.splits import Splits
from atlas_jax.online.agents.build import open_agent
from atlas_jax.online.calls.asker import Asker
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.models import open_model
from atlas_jax.online.calls.record import Record
from atlas_jax.online.calls.speakers import AskerSpeaker
from atlas_jax.online.search import servers
from atlas_jax.online.search.config import ROLES, OnlineConfig
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


@contextlib.contextmanager
def opened(
  config: OnlineConfig,
  environ: Mapping[str, str],
  record: Record,
  workdir: pathlib.Path,
  server_key: str | None = None,
) -> Iterator[Models]:
  """Opens what config names, and starts servers; nothing is asked.

  All is closed at the end.

  Args:
    config, environ, record, workdir: of the run.
    server_key: of servers that config.servers gives as URLs.

  Raises:
    ConfigError: a value is wrong or a variable is missing.
    ServerError: a server does not start.
  """
  ledger, loop = record.ledger(config.caps), EventLoop()
  named, asked = servers.endpoints(config), {}
  with contextlib.ExitStack() as stack:
    stack.callback(loop.close)
    config, environ = stack.enter_context(
      servers.served(config, workdir, environ, server_key)
    )
    account = {"environ": environ, "ledger": ledger, "record": record}
    for key in ROLES:
      if key == "student" and config.agent_mode:
        asker = open_agent(
          config.agent,
          where="config.agent",
          dollars_per_call=config.agent_dollars_per_call,
          **account,
        )
      else:
        model, where = getattr(config, key), f"config.{key}"
        endpoint = named.get(key)
        asker = open_model(model, where=where, endpoint=endpoint, **account)
      stack.callback(lambda asker=asker: loop.run(asker.aclose()))
      asked[key] = asker
    kwargs = config.episode.chat_template_kwargs
    yield Models(
      AskerSpeaker(asked["student"], kwargs),
      AskerSpeaker(asked["teacher"], kwargs),
      *(asked["reflection_model"], loop, ledger),
    )
