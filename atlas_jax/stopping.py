"""How SIGTERM (a preemption), Ctrl-C and a closed terminal end a run.

1. The first signal raises Stopped wherever the main thread is. Inside `held`
   (a training loop) it waits: the loop ends its step, saves, and raises it.
   What the lead alone does there (sampling, sending) is open again.
2. All that is open closes on the way out: checkpoints are written to their
   end, servers are ended. The launcher exits with 128 plus the signal's
   number, as shells count: 143 for SIGTERM, 130 for Ctrl-C. A signal that
   was ignored at the start (by nohup, by a shell's &) stays so. The lead of
   several processes hears of each other's signal too, see fate.py.
3. A second signal has the system's own effect: the process ends at once.
"""

import contextlib
import signal
import threading

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
  """A signal asks the run to end; `number` is the signal's.

  No Exception: no retry may take it for a failure. A KeyboardInterrupt, since
  asyncio logs whatever else a signal raises in one of its callbacks, and waits
  on for ever.
  """

  def __init__(self, number: int):
    super().__init__(f"stopped by {signal.Signals(number).name}")
    self.number = number


# Signals belong to the process, so this does too.
_asked = 0  # the signal that came; 0: none
_held = False
_passed_on = False  # the signal that comes next is another process's


def asked() -> int:
  """The number of the signal that came, 0 for none."""
  return _asked


def _hear(number: int, _) -> None:
  global _asked, _passed_on
  first, passed_on = not _asked, _passed_on
  _asked, _passed_on = number, False
  for each in SIGNALS:
    if signal.getsignal(each) is _hear and not passed_on:
      signal.signal(each, signal.SIG_DFL)
  if first and not _held:
    raise Stopped(number)


def pass_on(number: int) -> None:
  """Stops this process for a signal that came to another; for any thread.

  This process's own signal may still come, and does not count as a second.
  """
  global _passed_on
  if not _asked and signal.getsignal(number) is _hear:
    _passed_on = True
    signal.pthread_kill(threading.main_thread().ident, number)


@contextlib.contextmanager
def listening():
  """The signals end what runs inside; for the main thread."""
  global _asked
  heard = [s for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN]
  before = {number: signal.signal(number, _hear) for number in heard}
  try:
    yield
  finally:
    _asked = 0
    for number, handler in before.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def held(value: bool = True):
  """Inside, a signal waits for the end; with False, none does any more."""
  global _held
  before, _held = _held, value
  try:
    if _asked and before and not value:
      raise Stopped(_asked)
    yield
  finally:
    _held = before
  if _asked and value and not before:
    raise Stopped(_asked)
