"""Paths into JSON, and what is said where they end early."""

import pytest

from atlas_jax.config import ConfigError
from atlas_jax.online.agents import paths

REPLY = {
  "choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}],
  "data": {"items": [{"text": "c", "n": 3.5, "none": None}], "0": "key"},
  "a.b": {"[x]": ["d"]},
}


@pytest.mark.parametrize(
  ("path", "value"),
  [
    ("choices[0].message.content", "a"),
    ("choices[-1].message.content", "b"),
    ("choices.1.message.content", "b"),
    ("data.items.0.text", "c"),
    ("data.0", "key"),
    ("data.items[0].n", "3.5"),
    ("data.items[0].none", None),
    ('["a.b"]["[x]"][0]', "d"),
  ],
)
def test_a_path_is_followed(path, value):
  assert paths.text_at(REPLY, paths.parse(path, "x")) == value


@pytest.mark.parametrize(
  "path", ["", ".", "a.", "a..b", "a[", "a[x]", "[0", "a b]", 'a["b]']
)
def test_what_is_no_path(path):
  with pytest.raises(ConfigError, match=r"config\.http\.answer=.* is no path"):
    paths.parse(path, "config.http.answer")


@pytest.mark.parametrize(
  ("path", "message"),
  [
    (
      "choices[2].message",
      "what is at choices has no '2'; its shape is"
      " [2 x {message: {content: str}}]",
    ),
    ("choices.first", "what is at choices has no 'first'; its shape is"),
    ("choices[0].text", "what is at choices.0 has no 'text'; its shape is"),
    ("data.items[0].n.x", "has no 'x'; its shape is float"),
    ("data.items", "that is no text; its shape is [1 x {text: str, n: float"),
  ],
)
def test_where_it_ends_the_shape_is_shown_and_no_content(path, message):
  with pytest.raises(paths.NoSuchPath) as error:
    paths.text_at(REPLY, paths.parse(path, "x"))
  assert message in str(error.value)


def test_a_long_shape_is_cut():
  text = paths.shape({f"key{i}": i for i in range(1000)})
  assert len(text) == 300 and text.startswith("{key0: int, ")
