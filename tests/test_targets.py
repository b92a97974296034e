"""module:name and file.py:name, and where an error of them came from."""

import functools

import pytest

from atlas_jax import targets
from atlas_jax.config import ConfigError

TEXT = """import json


def fails(x):
  return json.loads(x)


class Judge:
  def ask(self, x):
    return x

  def __call__(self, x):
    raise OSError(x)


judge = Judge()
number = 3
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(TEXT)
  return str(path)


def test_a_file_and_a_module_and_what_is_in_them(file):
  assert targets.load(f"{file}:number", "config.x") == 3
  assert targets.load(f"{file}:judge.ask", "config.x")(4) == 4
  assert targets.function("json:JSONDecoder.decode", "config.x", takes=2)


def error_of(target: str, takes: int = 1) -> str:
  with pytest.raises(ConfigError) as caught:
    targets.function(target, "config.x", takes)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_what_is_wrong_is_one_line(file, tmp_path):
  assert error_of(f"{file}:number").endswith("is not callable")
  assert "has no 'judge.none'" in error_of(f"{file}:judge.none")
  assert "it has" in error_of(f"{file}:") and "judge" in error_of(f"{file}:")
  assert error_of(f"{file}:fails", takes=3).endswith(
    "is called with 3 arguments: too many positional arguments"
  )
  assert "missing a required argument" in error_of(f"{file}:judge", takes=0)
  assert targets.function("builtins:dict", "config.x", takes=1) is dict
  assert "does not import: ModuleNotFoundError" in error_of("no.such:f")
  assert "does not import" in error_of("json")
  for without_place in (":f", "json"):
    assert error_of(without_place).endswith("MODULE:NAME or FILE.py:NAME")
  broken = tmp_path / "broken.py"
  broken.write_text("import json\n\njson.loads('')\n")
  assert error_of(f"{broken}:f").endswith(f"({broken}:3)")


def test_an_error_names_the_line_of_the_file_it_came_from(file):
  def said(name, *args):
    function = targets.load(f"{file}:{name}", "config.x")
    with pytest.raises(Exception) as caught:
      function(*args)
    return targets.raised(caught.value, function)

  # json raised; the line is the user's.
  assert said("fails", "").endswith(f"({file}:5)")
  assert said("judge", "x") == f"OSError: x ({file}:13)"
  # Nothing of it ran: where it begins.
  assert said("fails").endswith(f"({file}:4)")


def test_what_has_no_line_is_said_without():
  bare = functools.partial(int, "x")
  with pytest.raises(ValueError) as caught:
    bare()
  assert targets.raised(caught.value, bare).startswith("ValueError: invalid")


def test_an_error_whose_text_fails_keeps_its_type():
  class Mute(Exception):
    def __str__(self):
      raise ValueError("no text")

  assert targets.raised(Mute(), print).startswith("Mute: <exception str()")
