"""The launcher of the doctor: its exit status, its file, whom it asks."""

import json
import types

import pytest

from atlas_jax.config import RunConfig
from atlas_jax.preflight import doctor
from launchers import doctor as launcher


@pytest.mark.parametrize(
  ("stdout", "stderr", "status", "level", "said"),
  [
    ("program\nh100x4: fits: at most", "", 0, "ok", "h100x4: fits: at most"),
    ("h100x4: does not fit", "", 1, "error", "h100x4: does not fit"),
    ("", "log\nerror: no compiler\n", 1, "warning", "error: no compiler"),
    ("", "", -9, "warning", "it ended with -9"),
  ],
)
def test_compile_is_asked_with_the_same_flags(
  monkeypatch, stdout, stderr, status, level, said
):
  asked = []

  def run(command, **_):
    asked.extend(command)
    return types.SimpleNamespace(
      stdout=stdout, stderr=stderr, returncode=status
    )

  monkeypatch.setattr(launcher.subprocess, "run", run)
  monkeypatch.setattr(launcher.sys, "argv", ["doctor", "--config=a.py"])
  answer = launcher._compiled("h100x4")
  assert answer[0] == level and answer[1].endswith(said)
  assert asked[1:5] == [
    *("-m", "launchers.compile", "--config=a.py", "--target=h100x4"),
  ]


def test_the_launcher_ends_with_1_after_an_error(monkeypatch, tmp_path, capsys):
  written = tmp_path / "found.json"
  monkeypatch.setattr(launcher, "_JSON", types.SimpleNamespace(value=written))
  given = types.SimpleNamespace(workdir=None)
  monkeypatch.setattr(launcher.flags, "FLAGS", given)
  monkeypatch.setattr(launcher.common, "config", lambda: RunConfig())
  for level, status in (("error", 1), ("warning", 0)):
    found = [doctor.Finding("a", level, "x"), doctor.Finding("b", "ok", "y")]
    monkeypatch.setattr(doctor.Examination, "findings", lambda _, f=found: f)
    with pytest.raises(SystemExit) as end:
      launcher.main()
    assert end.value.code == status
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [[level, "a", "x"], ["ok", "b", "y"]]
    assert json.loads(written.read_text()) == [x._asdict() for x in found]
