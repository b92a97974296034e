"""The house rules that a reader can check without running anything.

Modules are parsed, not imported, so an import inside a function counts too;
one under `if TYPE_CHECKING` counts where cycles are looked for.
"""

import ast
import functools
import graphlib
import re
import subprocess
import sys

import pytest

from tests.source_tree import ROOT, imported, modules

# Imports point down or stay in their layer; the longest matching name decides.
LAYERS = (
  ("atlas_jax.errors",),
  (
    "atlas_jax.sharding",
    "atlas_jax.metrics",
    "atlas_jax.multihost",
    "atlas_jax.config",
    "atlas_jax.config_tree",
    "atlas_jax.loss_options",
    "atlas_jax.server_config",
    "atlas_jax.teacher_config",
    "atlas_jax.episode_config",
    "atlas_jax.evaluate_config",
    "atlas_jax.teaching.prompts",
    "atlas_jax.stopping",
    "atlas_jax.fate",
    "atlas_jax.checkpoint",
    "atlas_jax.directory",
    "atlas_jax.sweep",
    "atlas_jax.files",
    "atlas_jax.gpus",
    "atlas_jax.hub",
    "atlas_jax.confined",
    "atlas_jax.fork_server",
    "atlas_jax.seccomp",
    "atlas_jax.terminal",
    "atlas_jax.progress",
    "atlas_jax.addresses",
    "atlas_jax.retries",
    "atlas_jax.secret_names",
    "atlas_jax.scrubbing",
    "atlas_jax.targets",
  ),
  (
    "atlas_jax.model",
    "atlas_jax.data",
    "atlas_jax.teaching",
    "atlas_jax.serving",
  ),
  (
    "atlas_jax.training",
    "atlas_jax.serving.weight_sync",
    "atlas_jax.online",
    "atlas_jax.reports",
  ),
  ("atlas_jax.phases", "atlas_jax.preflight"),
  ("configs", "launchers"),
)
# Who may import what; everything else may not.
ALLOWED = {
  "jax": (
    "atlas_jax.sharding",
    "atlas_jax.multihost",
    "atlas_jax.fate",
    "atlas_jax.checkpoint",
    "atlas_jax.model",
    "atlas_jax.training",
    "atlas_jax.phases",
    "atlas_jax.preflight",
    "launchers",
  ),
  "torch": ("atlas_vllm", "launchers.convert_gguf"),
  "vllm": ("atlas_vllm",),
  "atlas_vllm": ("atlas_vllm",),
  "transformers": ("atlas_jax.data", "launchers.convert_gguf"),
  "atlas_jax": ("atlas_jax", "configs", "launchers"),
}
# What brings JAX with it counts as JAX.
JAX_FAMILY = ("jax", "jaxlib", "flax", "optax", "orbax", "chex", "grain")
MAY_READ_ENVIRONMENT = (
  # It hands ours on, as a start of a process does by itself.
  "atlas_jax.fork_server",
  # It hands its whole environment on to the server that it watches.
  "atlas_jax.serving.supervisor",
  # It sets what LiteLLM reads while it is imported.
  "atlas_jax.online.calls.litellm_calls",
)
TOP_LEVEL = {
  *("atlas_jax", "configs", "launchers", "third_party", "tests", ".ci"),
  *("requirements.txt", "README.md", "pyproject.toml", "LICENSE"),
  *("CITATION.cff", ".gitignore", ".pre-commit-config.yaml"),
  *("CONTRIBUTING.md", "CHANGELOG.md"),
}
MAX_LINES = 350


def under(module: str, parents) -> bool:
  return any(module == p or module.startswith(p + ".") for p in parents)


@functools.cache
def imports(module: str, types: bool = False) -> frozenset[str]:
  path = modules()[module]
  tree = ast.parse(path.read_text(encoding="utf-8"))
  return frozenset(imported(tree, module, path.name == "__init__.py", types))


def own_imports(module: str, types: bool = False) -> set[str]:
  """Our modules that `module` imports by name."""
  # `from a import b` with a module b is an import of b, not of a.
  named = {n for n in imports(module, types) if n in modules()}
  return {
    n
    for n in named
    if n != module
    and not any(other.startswith(n + ".") and other in named for other in named)
  }


def layer(module: str) -> int | None:
  best = None
  for i, names in enumerate(LAYERS):
    for name in names:
      if under(module, [name]) and (best is None or len(name) > best[0]):
        best = (len(name), i)
  return None if best is None else best[1]


def test_the_parser_sees_every_kind_of_import():
  tree = ast.parse(
    "import a.b\nfrom c import d\ndef f():\n  from . import e\n"
    "  from ..g import h\nif TYPE_CHECKING:\n  import unseen\n"
  )
  assert imported(tree, "x.y.z", False) == {
    *("a.b", "c", "c.d", "x.y", "x.y.e", "x.g", "x.g.h"),
  }
  assert imported(tree, "x.y.z", False, types=True) >= {"unseen", "a.b"}
  assert imported(ast.parse("from . import e"), "x.y", True) == {"x.y", "x.y.e"}


def test_every_module_has_a_layer():
  named = {name for names in LAYERS for name in names}
  outside = {"atlas_jax", "atlas_vllm"}
  lost = [
    m
    for m in modules()
    if layer(m) is None and m not in outside and not under(m, ["atlas_vllm"])
  ]
  assert not lost, f"give these a layer among {sorted(named)}: {lost}"


def test_imports_point_down():
  wrong = [
    f"{module} imports {name}"
    for module in modules()
    for name in own_imports(module)
    if layer(module) is not None
    and layer(name) is not None
    and layer(name) > layer(module)
  ]
  assert not wrong, wrong


def cycle(graph: dict[str, set[str]]) -> list[str]:
  """Modules of which each imports the next, the first again at the end."""
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    return error.args[1][::-1]
  return []


def test_a_cycle_is_found():
  assert cycle({"a": {"b"}, "b": {"c"}}) == []
  found = cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
  assert found[0] == found[-1] and "".join(found) in ("abca", "bcab", "cabc")


def test_imports_are_acyclic():
  """Types included: of two modules that need each other neither comes first."""
  assert not cycle({name: own_imports(name, types=True) for name in modules()})


@pytest.mark.parametrize("package", ALLOWED)
def test_who_may_import(package):
  family = JAX_FAMILY if package == "jax" else (package,)
  wrong = [
    f"{module} imports {name}"
    for module in modules()
    for name in imports(module)
    if under(name, family) and not under(module, ALLOWED[package])
  ]
  assert not wrong, wrong


def test_the_package_reads_no_environment_variables():
  wrong = []
  for module, path in modules().items():
    if not under(module, ["atlas_jax"]) or module in MAY_READ_ENVIRONMENT:
      continue
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
      if text in ("os.environ", "os.environb", "os.getenv", "os.putenv"):
        wrong.append(f"{module}:{node.lineno} {text}")
    if imports(module) & {"os.environ", "os.getenv", "dotenv"}:
      wrong.append(f"{module} imports the environment")
  assert not wrong, wrong


@pytest.mark.parametrize(
  "package, without",
  [
    ("atlas_jax.teaching", ("jax", "torch", "flax")),
    ("atlas_jax.reports", ("jax", "torch", "flax", "matplotlib")),
    ("atlas_jax.serving.client", ("jax", "torch", "flax", "vllm")),
    ("atlas_jax.serving.server", ("jax", "torch", "flax", "vllm")),
    ("atlas_jax.data", ("jax", "torch", "flax")),
    ("atlas_jax.config", ("jax", "torch", "flax")),
    ("atlas_jax.directory", ("jax", "torch", "flax")),
    ("atlas_jax.online", ("jax", "torch", "flax", "vllm", "litellm", "gepa")),
  ],
)
def test_a_fresh_process_stays_light(package, without):
  wanted = [m for m in modules() if under(m, [package])]
  script = (
    f"import sys, {', '.join(wanted)}\n"
    f"print([m for m in {without!r} if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "[]", f"{wanted} bring {done.stdout}"


def tracked() -> list[str]:
  """The repository's files, new ones included, ignored ones not."""
  done = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  if done.returncode != 0:
    pytest.skip("not a git checkout")
  return [name for name in done.stdout.splitlines() if (ROOT / name).exists()]


def test_no_class_name_stands_twice():
  where: dict[str, list[str]] = {}
  for module, path in modules().items():
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.ClassDef):
        where.setdefault(node.name, []).append(module)
  assert len(where) > 100
  twice = {name: found for name, found in where.items() if len(found) > 1}
  assert not twice


def test_files_fit_in_the_head():
  long = []
  for name in tracked():
    if not name.endswith(".py"):
      continue
    text = (ROOT / name).read_text(encoding="utf-8")
    count = len(text.splitlines())
    reason = ast.get_docstring(ast.parse(text)) or ""
    if count > MAX_LINES and f"{MAX_LINES} lines" not in reason:
      long.append(f"{name}: {count}")
  assert not long, (
    f"over {MAX_LINES} lines, and the docstring does not say why: {long}"
  )


def test_the_top_level_is_fixed():
  assert {name.split("/")[0] for name in tracked()} <= TOP_LEVEL


def test_no_test_is_imported_by_another():
  """What several tests use lies in a file of its own."""
  found = {}
  for path in (ROOT / "tests").rglob("*.py"):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = imported(tree, module, path.name == "__init__.py")
    named = [n for n in names if re.match(r"tests\.([\w.]+\.)?test_", n)]
    if named:
      found[module] = sorted(named)
  assert not found
