"""Several processes, one fate: the first that fails ends all, and all say why.

What follows, by what ends a process:

1. It raises: the cause goes to JAX's coordination store. A thread of each
   process waits for it there, logs it and ends its process.
2. It is killed, frozen or cut off: JAX ends the others after HEARTBEAT_S and
   names its number. Of the lead, which holds the store, JAX says at once that
   "the leader task" is gone; that it is frozen the thread says.
3. A signal asks it to stop: the lead hears of it through the store and stops
   what it does alone, as if the signal were its own; see stopping.py.
4. It is done, or has stopped: it waits until all have.

The lead leaves last: a process that loses the store is ended by JAX at once.
"""

import contextlib
import logging
import os
import re
import select
import signal
import sys
import threading
import time
import traceback

import jax
from jax._src import distributed

from atlas_jax import multihost, stopping

log = logging.getLogger(__name__)

# Keys of the store; the third is there from the start.
_CAUSE, _STOP, _LEAD = "atlas/cause", "atlas/stop", "atlas/lead"
# What JAX raises begins so; most often another process has ended.
_OF_JAX = re.compile("(?!RESOURCE_EXHAUSTED)[A-Z_]+: ")


@contextlib.contextmanager
def shared():
  """Inside, and at its end, the processes share their fate."""
  fate = _Fate()
  try:
    yield
  except BaseException as error:
    code = error.code if isinstance(error, SystemExit) else error
    printed = isinstance(code, int | None)  # Python prints all else
    status = code if printed else 1
    cause = error.__context__ if printed and error.__context__ else error
    if status and not isinstance(cause, stopping.Stopped):
      if not printed:
        traceback.print_exception(error)
      fate.fail(cause, status)
    fate.end()
    raise
  fate.end()


class _Fate:
  """Of this process; for its main thread."""

  def __init__(self):
    state = distributed.global_state
    self._store, self._index = state.client, state.process_id
    if self._index == 0:
      self._store.key_value_set(_LEAD, "here")
    self._leaving = threading.Lock()
    self._explained = threading.Event()  # the main thread has printed a cause
    # The main thread may be in a collective, where Python runs no handler.
    self._signals, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    self._watcher = threading.Thread(target=self._watch, daemon=True)
    self._watcher.start()

  def _watch(self) -> None:
    """Until a cause is in the store; an empty one: all are done."""
    while (cause := self._wait_for(_CAUSE, 0.5)) is None:
      heard = select.select([self._signals], [], [], 0)[0]
      for number in os.read(self._signals, 64) if heard else b"":
        if number in stopping.SIGNALS:
          self._store.key_value_set(_STOP, str(number), allow_overwrite=True)
      if self._wait_for(_LEAD, multihost.HEARTBEAT_S * 0.7) is None:
        log.error("process 0 does not answer: frozen, or cut off")
        self._leave()
      # The lead may be sampling for long.
      if self._index == 0 and (number := self._wait_for(_STOP, 0.01)):
        stopping.pass_on(int(number))
    if cause:
      if not self._explained.wait(2):
        log.error("%s", cause)
      self._leave()

  def _wait_for(self, key: str, seconds: float) -> str | None:
    """What the store holds there, if it comes to hold anything in time."""
    try:
      return self._store.blocking_key_value_get(key, int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
      if str(error).startswith("DEADLINE_EXCEEDED"):  # it has no other mark
        return None
      log.error("lost the store of process 0: %s", error)
      self._leave()

  def fail(self, cause: BaseException, status: int) -> None:
    """Ends all processes; the first cause is what they say."""
    echo = any(_OF_JAX.match(str(e)) for e in (cause, cause.__cause__))
    if not echo:
      self._explained.set()
    if echo or isinstance(cause, multihost.LeadError):
      # Another process says the cause of this, or JAX ends all.
      time.sleep(multihost.HEARTBEAT_S + 5)
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the first one stays
      text = f"process {self._index} failed: {type(cause).__name__}: {cause}"
      self._store.key_value_set(_CAUSE, text)
    self._leave(status)

  def _leave(self, status: int = 1) -> None:
    """Ends this process; a plain exit would wait for the others 300 s."""
    self._leaving.acquire()  # by one thread, for good
    with contextlib.suppress(Exception):
      self._store.wait_at_barrier("atlas/left", 5000)
    if self._index == 0:
      time.sleep(0.5)  # until the others have read the barrier's answer
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
      stream.flush()
    os._exit(status)

  def end(self) -> None:
    """Waits for the others, then leaves the run."""
    try:
      # The lead may still be ending its servers.
      self._store.wait_at_barrier("atlas/end", 300_000)
    except jax.errors.JaxRuntimeError as error:
      self.fail(error, 1)
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was first
      self._store.key_value_set(_CAUSE, "")
    self._watcher.join()  # left inside JAX at exit it would abort the process
    jax.distributed.shutdown()
