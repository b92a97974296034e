"""configs/README.md: how a dictionary of a config is given as flags."""

import pytest
from absl import flags
from ml_collections import config_flags


def params(tmp_path, *given):
  """config.data.params by those flags, of a file that sets one key of it."""
  file = tmp_path / "own.py"
  file.write_text(
    "from atlas_jax.config import default_config\n"
    "def get_config():\n"
    "  config = default_config()\n"
    "  config.data.params = {'count': 3, 'trouble': 0.5}\n"
    "  return config\n"
  )
  argv = ["launcher", f"--config={file}", *given]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
  values(argv)
  return values.config.data.params.to_dict()


def test_the_whole_takes_the_place_of_the_files(tmp_path):
  whole = '--config.data.params={"other": "a b"}'
  assert params(tmp_path, whole) == {"other": "a b"}


def test_a_key_that_the_file_has_set_is_a_flag(tmp_path):
  changed = params(tmp_path, "--config.data.params.count=9")
  assert changed == {"count": 9, "trouble": 0.5}


def test_a_key_that_it_has_not_set_is_none(tmp_path):
  with pytest.raises((KeyError, AttributeError)):
    params(tmp_path, "--config.data.params.other=9")


def test_the_whole_and_a_key_are_not_given_together(tmp_path):
  both = ['--config.data.params={"count": 1}', "--config.data.params.count=9"]
  with pytest.raises(Exception, match="provided after"):
    params(tmp_path, *reversed(both))


def test_a_whole_that_a_launcher_passes_on_is_the_same(tmp_path, monkeypatch):
  from launchers import config_flag

  file, told = (
    tmp_path / "own.py",
    "--config.data.params={'count': 5, 'a': 'b'}",
  )
  file.write_text("from atlas_jax.config import default_config as get_config\n")
  argv = ["launcher", f"--config={file}", told]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
  values(argv)
  monkeypatch.setattr(flags, "FLAGS", values)
  passed = config_flag.given()
  assert len(passed) == 1
  assert params(tmp_path, *passed) == {"count": 5, "a": "b"}
