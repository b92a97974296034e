"""One client over all servers of a role.

Which server a request goes to, and when a server is left out:
  1. a group of prompts stays at one server, which has their beginning in its
     cache; a new group goes where the fewest tokens are outstanding;
  2. a server that does not answer (client.py), or answers with other weights
     than were published, is left out. Its requests go to the others; a request
     says its seed, so that each has one answer, and the same;
  3. it is asked again once its user says so (`take_back`), who has looked at
     its weights;
  4. where none is left the last one's error is raised, and all but strangers
     are asked again from then on: their user restarts what it has started.
"""

import logging
import time
from collections.abc import Hashable, Mapping, Sequence

from atlas_jax.serving.client import Client, Completion, Sampling
from atlas_jax.serving.http import ServerDown, ServerError
from atlas_jax.serving.server import Server

log = logging.getLogger(__name__)

_MOST_GROUPS = 4096  # whose servers are remembered
_LOOK_EVERY_S = 1.0  # at the queue of a server that answers


class Fleet:
  """The servers of a role, each with its client, in the config's order.

  Attributes:
    version: the weights that each completion must come from; None: any.
    left_out: clients that are not asked.
    strangers: those of them that answer, with another model.
  """

  def __init__(self, servers: Mapping[Client, Server]):
    self.servers = dict(servers)
    self.version: int | None = None
    self.left_out: set[Client] = set()
    self.strangers: set[Client] = set()
    self._missed: set[Client] = set()  # left out since the last `numbers`
    self._outstanding = dict.fromkeys(servers, 0)  # tokens
    self._groups: dict[Hashable, Client] = {}
    self._looked = dict.fromkeys(servers, 0.0)
    self._queues: dict[Client, dict[str, float]] = {}  # the longest seen

  async def aclose(self) -> None:
    for client in self.servers:
      await client.aclose()

  def end(self) -> None:
    """Ends the servers that the run has started."""
    for server in self.servers.values():
      server.end()

  def asked(self) -> list[Client]:
    return [c for c in self.servers if c not in self.left_out]

  def leave_out(self, client: Client, error: ServerDown) -> None:
    """Asks a server no more.

    Raises:
      ServerDown: no other is left.
    """
    if client not in self.left_out:
      self.left_out.add(client)
      self._missed.add(client)
      log.warning("%s is left out: %s", client.base_url, error)
    if not self.asked():
      self.left_out &= self.strangers
      raise error

  def back(self) -> list[Client]:
    """Those that were left out and are healthy again."""
    return [c for c in self.left_out if self.servers[c].healthy()]

  def require(self, version: int, holds: Mapping[Server, int | None]) -> None:
    """Asks from now on those alone that hold these weights."""
    self.version = version
    for client, server in self.servers.items():
      if holds[server] == version:
        self.take_back(client)
      else:
        self.left_out.add(client)

  def take_back(self, client: Client) -> None:
    """Asks a server again that was left out, if it was."""
    if client in self.left_out:
      self.left_out.remove(client)
      self.strangers.discard(client)
      self._groups.clear()  # it gets its share of them
      log.warning("%s is asked again", client.base_url)

  async def generate(
    self,
    token_ids: Sequence[int],
    sampling: Sampling,
    *,
    cache_salt: str | None = None,
    group: Hashable = None,
  ) -> list[Completion]:
    """As Client.generate, by one server for all prompts of a group."""
    tokens = len(token_ids) + sampling.n * sampling.max_tokens
    while True:
      client = self._choose(group)
      self._outstanding[client] += tokens
      try:
        found = await client.generate(
          token_ids, sampling, cache_salt=cache_salt
        )
        self._check(client, found)
        await self._look(client)
        return found
      except ServerDown as error:
        self.leave_out(client, error)
      finally:
        self._outstanding[client] -= tokens

  async def scores(
    self, prompt_ids: Sequence[int], token_ids: Sequence[int]
  ) -> list[tuple[float, ...]]:
    """Client.score of each server that is asked and answers."""
    found = []
    for client in self.asked():
      try:
        found.append(await client.score(prompt_ids, token_ids))
      except ServerDown as error:
        self.leave_out(client, error)
    return found

  def numbers(self, role: str) -> dict[str, float]:
    """Of the time since the last call: who was asked, the longest queues."""
    found = {}
    for i, client in enumerate(self.servers):
      name = f"{role}_server_{i}"
      found[f"{name}_asked"] = float(client not in self._missed | self.left_out)
      queue = self._queues.pop(client, {})
      found |= {f"{name}_{what}": length for what, length in queue.items()}
    self._missed = {*self.left_out}
    return found

  def _choose(self, group: Hashable) -> Client:
    left = self.asked()
    client = self._groups.get(group)
    if client not in left:
      client = min(left, key=self._outstanding.__getitem__)
      if group is not None:
        self._groups[group] = client
        if len(self._groups) > _MOST_GROUPS:
          del self._groups[next(iter(self._groups))]
    return client

  def _check(self, client: Client, found: Sequence[Completion]) -> None:
    others = {c.weight_version for c in found} - {self.version}
    if self.version is not None and others:
      raise ServerDown(
        f"{client.base_url} samples with weights {min(map(str, others))}, not"
        f" {self.version}: it was started again"
      )

  async def _look(self, client: Client) -> None:
    now = time.monotonic()
    if now - self._looked[client] < _LOOK_EVERY_S:
      return
    self._looked[client] = now
    try:
      lengths = await client.queue()
    except ServerError as error:
      log.debug("no queue lengths: %s", error)
      return
    before = self._queues.get(client, lengths)
    self._queues[client] = {k: max(n, before[k]) for k, n in lengths.items()}
