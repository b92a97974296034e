"""configs/keys.md holds every key as it is, each with its meaning."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import pytest

from atlas_jax import config_tree
from tests import config_keys
from tests.config_meanings import MEANINGS

CASES = [
  (cls, field.name)
  for cls, at in config_keys.places().items()
  for field in dataclasses.fields(cls)
  if not dataclasses.is_dataclass(getattr(at[0].config, field.name))
]


@pytest.mark.parametrize(
  ("cls", "name"), CASES, ids=lambda value: getattr(value, "__name__", value)
)
def test_every_key_has_a_meaning(cls, name):
  comment = config_keys.comments(cls)[name]
  assert config_keys.meaning(cls, name, comment), (
    f"{cls.__name__}.{name}: put a comment at the field, or words into"
    " tests/config_meanings.py"
  )


def test_meanings_are_of_keys_that_there_are():
  assert not set(MEANINGS) - {f"{cls.__name__}.{name}" for cls, name in CASES}


def test_the_table_is_what_the_dataclasses_say():
  assert config_keys.PATH.read_text(encoding="utf-8") == (
    config_keys.document()
  ), f"configs/keys.md has drifted; run: {config_keys.COMMAND}"


@pytest.mark.parametrize("root", config_keys.ROOTS)
def test_the_table_holds_every_key_of_a_launcher(root):
  """Counted without the generator: by the ConfigDict that flags change."""
  text = config_keys.PATH.read_text(encoding="utf-8")
  for key in config_tree.dotted(config_tree.tree_of(config_keys.ROOTS[root]())):
    path, _, name = key.rpartition(".")
    sections = [
      part
      for part in text.replace("\n### ", "\n## ").split("\n## ")
      if (f"`{path}` ({root})" if path else f"Of {root}\n") in part
    ]
    nested = f"`{key}` ({root})" in text
    assert nested or any(f"| `{name}` |" in part for part in sections), key


@dataclass(frozen=True)
class Example:
  # Above: a | b.
  first: Literal["a", "b"] = "a"
  second: config_tree.PositiveInt | None = 1  # behind
  # Of the third,
  # in two lines.
  third: tuple[str, ...] = (
    "a text that is so long that the formatter breaks its line after this",
  )  # and behind
  fourth: dict = dataclasses.field(default_factory=dict)


def test_words_stand_before_the_comment_or_instead_of_it(monkeypatch):
  def meaning(words, comment):
    monkeypatch.setitem(MEANINGS, "Example.first", words)
    return config_keys.meaning(Example, "first", comment)

  assert meaning("", "a | b") == "a | b"
  assert meaning("the letter", "") == "the letter"
  assert meaning("the letter", "a | b") == "the letter; a | b"
  assert meaning("the letter:", "a | b") == "the letter: a | b"
  assert meaning("the letter, a or b.", "a | b") == "the letter, a or b."


def test_a_section_by_hand():
  at = [
    config_keys.Place("train", "a.x", Example()),
    config_keys.Place("proxy", "x", Example(second=3 << 20)),
  ]
  assert config_keys.comments(Example)["fourth"] == ""
  text = "\n".join(config_keys.section(Example, at))
  assert text == (
    "\n### `a.x` (train), `x` (proxy)\n\n"
    "| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
    "| `first` | one of a, b | `'a'` | Above: a \\| b. |\n"
    "| `second` | int, above 0, or None | `1` `a.x` (train);"
    " `3145728` (3 MiB) `x` (proxy) | behind |\n"
    "| `third` | tuple of str | `('a text that is so long that the formatter"
    " ...)` | Of the third, in two lines. and behind |\n"
    "| `fourth` | dict | `{}` |  |"
  )
