"""What the doctor says of several hosts together."""

from atlas_jax.preflight import doctor


def test_clocks_of_hosts_that_differ(machine, monkeypatch):
  for seconds, level in ((9, "ok"), (11, "error")):
    monkeypatch.setattr(
      doctor.multihost, "call_on_all", lambda f, s=seconds: [f(), f() - s]
    )
    answer = machine.exam()._clock()
    assert answer[0] == level
  assert answer[1].endswith("hosts are 11 s apart: set their clocks")


def test_a_directory_that_not_all_hosts_see_is_refused(machine, monkeypatch):
  place = machine.run / "checkpoints"

  def blind(folder):
    raise doctor.multihost.HostsError(f"these do not see {folder}: [1]")

  monkeypatch.setattr(doctor.multihost, "check_shared", blind)
  level, text = machine.findings()["--workdir"]
  assert (level, text) == ("error", f"these do not see {place}: [1]")
