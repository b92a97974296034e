"""What SIGTERM and Ctrl-C do, in this process and in one of its own."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from atlas_jax import multihost, stopping
from atlas_jax.stopping import Stopped


def send(number=signal.SIGTERM):
  os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def nothing_ignored():
  """Whoever started the tests may ignore SIGHUP, as nohup does."""
  before = {
    number: signal.signal(number, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
  }
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize(
  "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_a_signal_ends_what_runs(number):
  before = signal.getsignal(number)
  with pytest.raises(Stopped, match=number.name) as error, stopping.listening():
    send(number)
  assert error.value.number == number
  assert signal.getsignal(number) is before


def test_what_was_ignored_stays_so(monkeypatch):
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with pytest.raises(Stopped, match="TERM"), stopping.listening():
      send(signal.SIGHUP)
      with stopping.held():
        send(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        send(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)


def test_one_in_a_callback_of_asyncio_ends_what_it_waits_for():
  async def waits():
    loop = asyncio.get_running_loop()
    loop.call_soon(signal.raise_signal, signal.SIGTERM)
    await asyncio.sleep(3)

  with pytest.raises(Stopped), stopping.listening():
    asyncio.run(waits())


def test_it_is_no_failure_that_may_be_tried_again():
  assert not issubclass(Stopped, Exception)


def test_a_loop_is_told_at_its_own_time():
  done = []
  with pytest.raises(Stopped), stopping.listening():
    assert multihost.stop_asked() is None
    with stopping.held():
      send()
      assert multihost.stop_asked().number == signal.SIGTERM
      done.append(1)
    done.append(2)  # what nobody asked for inside is raised at its end
  assert done == [1]
  with stopping.listening():
    assert multihost.stop_asked() is None


def test_what_the_lead_alone_does_is_open_inside_a_loop():
  done = []

  def loop(sent_inside):
    if not sent_inside:
      send()  # nothing is begun then
    with pytest.raises(Stopped):
      multihost.call_on_lead(
        lambda: (sent_inside and send()) or done.append("called")
      )
    # Once the loop knows, it can go on to save.
    assert multihost.stop_asked() is not None
    done.append("saved")

  for sent_inside in (True, False):
    with pytest.raises(Stopped), stopping.listening(), stopping.held():
      loop(sent_inside)
  assert done == ["saved", "saved"]


def test_cleaning_up_is_not_disturbed():
  with pytest.raises(Stopped), stopping.listening():
    try:
      send()
    finally:
      assert multihost.call_on_lead(lambda: 7) == 7


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(second):
  script = (
    "import os, signal, sys\n"
    "from atlas_jax import stopping\n"
    "with stopping.listening(), stopping.held():\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n"
    "  print('saving', flush=True)\n"
    f"  os.kill(os.getpid(), {int(second)})\n"
    "  print('never', flush=True)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
  )
  assert done.stdout == "saving\n"
  assert done.returncode == -second


def test_a_signal_of_another_process_is_not_the_first_of_two():
  done = []
  with (
    pytest.raises(Stopped, match="TERM"),
    stopping.listening(),
    stopping.held(),
  ):
    stopping.pass_on(signal.SIGTERM)
    assert multihost.stop_asked().number == signal.SIGTERM
    send()  # its own, a little later: the step is still saved
    stopping.pass_on(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    done.append("saved")
  assert done == ["saved"]
  stopping.pass_on(signal.SIGTERM)  # nobody listens: nothing happens


def test_a_signal_of_another_process_ends_what_the_lead_does():
  with pytest.raises(Stopped), stopping.listening():
    stopping.pass_on(signal.SIGTERM)
    raise AssertionError("went on")
