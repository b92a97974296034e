"""What the guides name is there: files, headings, config keys, commands."""

import importlib
import pathlib
import re
import shlex
import typing

import pytest

from atlas_jax import config_tree
from atlas_jax.config import GrpoConfig
from atlas_jax.loss_options import LossType
from launchers.cli import COMMANDS
from tests.config_keys import ROOTS

ROOT = pathlib.Path(__file__).resolve().parent.parent
GUIDES = [
  *ROOT.glob("*.md"),
  *(ROOT / folder / "README.md" for folder in ("configs", "launchers")),
  *ROOT.glob("atlas_jax/*/README.md"),
  *ROOT.glob("third_party/*/README.md"),
  *ROOT.glob("tests/*/README.md"),
]
NAMES = [str(path.relative_to(ROOT)) for path in GUIDES]
KEYS = {
  key
  for cls in ROOTS.values()
  for key in config_tree.dotted(config_tree.tree_of(cls()))
}


def read(name: str) -> str:
  return (ROOT / name).read_text(encoding="utf-8")


def anchors(path: pathlib.Path) -> set[str]:
  headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
  plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
  return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
  for link in re.findall(r"\]\(([^)]+)\)", read(name)):
    if "://" in link:
      continue
    file, _, anchor = link.partition("#")
    path = ROOT / name if not file else (ROOT / name).parent / file
    assert path.exists(), link
    assert not anchor or anchor in anchors(path), link


def is_key(path: str) -> bool:
  """Whether a launcher has that key; * stands for any part."""
  pattern = re.escape(path.rstrip(".*")).replace(r"\*", r"[\w.]*")
  return any(re.fullmatch(pattern, key) for key in KEYS)


@pytest.mark.parametrize("name", NAMES)
def test_keys_that_are_named_exist(name):
  for key in re.findall(r"`(?:--)?config\.([\w.*]+)", read(name)):
    assert is_key(key) or key in ("py", "json", "KEY"), key


def test_keys_of_the_short_table_exist():
  _, table = read("configs/README.md").split("## The keys that one changes")
  cells = re.findall(r"^\| (`[^|]*) \|", table, re.M)
  assert len(cells) > 30
  for cell in cells:
    parent = ""
    for key in re.findall(r"`([\w.*]+)`", cell):
      key = parent + key if key.startswith(".") else key
      parent = key.rpartition(".")[0]
      assert is_key(key), key


def test_the_guide_names_the_loss_types_that_there_are():
  (row,) = re.findall(
    r"^\| `grpo\.loss_type` \| (.*) \|$", read("configs/README.md"), re.M
  )
  choices, _, _ = row.rpartition(";")
  named = set(re.findall(r"`(\w+)`", choices)) - {"eps_high"}
  assert named == set(typing.get_args(LossType))


def test_the_guide_names_the_loss_that_is_the_default():
  """In words that hold for these values alone."""
  d = GrpoConfig()
  assert (d.loss_type, d.advantage, d.beta) == ("dapo", "group", 0.0)
  text = " ".join(read("configs/README.md").split())
  low, high = 1 - d.eps_low, 1 + d.eps_high
  assert f"the ratio clipped at {low:g} and {high:g}" in text
  assert d.mismatch == "token_truncate"
  assert f"a ratio that is truncated at {d.mismatch_max:g}" in text


def commands() -> list[tuple[str, str]]:
  """(guide, command) of every shell line in a code block."""
  found = []
  for name in NAMES:
    for block in re.findall(r"```bash\n(.*?)```", read(name), re.S):
      lines = block.replace("\\\n", " ").splitlines()
      found += [(name, line) for line in lines if "launchers." in line]
  return found


def test_there_are_commands():
  assert len(commands()) > 8


@pytest.mark.parametrize(("name", "line"), commands())
def test_commands_name_launchers_and_keys_that_there_are(name, line):
  words = shlex.split(line, comments=True)
  launcher = words[words.index("-m") + 1].removeprefix("launchers.")
  assert launcher in COMMANDS
  configs = [w.split("=", 1)[1] for w in words if w.startswith("--config=")]
  for config in configs:
    file, _, variant = config.partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    tree = module.get_config(variant) if variant else module.get_config()
    keys = set(config_tree.dotted(tree))
    given = re.findall(r"--config\.([\w.]+)", line)
    assert set(given) <= keys, set(given) - keys
