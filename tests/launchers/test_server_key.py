"""Where the bearer token of servers comes from."""

import pytest

from launchers import common


@pytest.fixture
def environment(monkeypatch):
  for name in ("ATLAS_SERVER_KEY", "ATLAS_SERVER_KEY_FILE"):
    monkeypatch.delenv(name, raising=False)
  return monkeypatch.setenv


def test_the_key_is_in_the_environment_or_in_a_file(environment, tmp_path):
  assert common.server_key() is None
  environment("ATLAS_SERVER_KEY", "one")
  assert common.server_key() == "one"
  (tmp_path / "key").write_text("two\n")
  environment("ATLAS_SERVER_KEY_FILE", str(tmp_path / "key"))
  assert common.server_key() == "two"


@pytest.mark.parametrize("content", [None, "", "\n", "two words"])
def test_a_file_without_a_key(environment, tmp_path, content):
  path = tmp_path / "key"
  if content is not None:
    path.write_text(content)
  environment("ATLAS_SERVER_KEY_FILE", str(path))
  with pytest.raises(common.FileError, match=f"KEY_FILE={path}: ") as raised:
    common.server_key()
  assert "words" not in str(raised.value)


@pytest.mark.parametrize(
  ("given", "key"), [("one\r\n", "one"), ("", None), ("a b", 0), ("a\x01", 0)]
)
def test_a_key_that_no_header_takes(environment, given, key):
  environment("ATLAS_SERVER_KEY", given)
  if key == 0:
    with pytest.raises(common.FileError, match="ATLAS_SERVER_KEY: it must"):
      common.server_key()
  else:
    assert common.server_key() == key
