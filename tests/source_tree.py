"""The modules of this repository, and what each imports."""

import ast
import functools
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent


@functools.cache
def modules() -> dict[str, pathlib.Path]:
  """Name -> file, of everything but the tests."""
  found = {}
  for top in ("atlas_jax", "configs", "launchers", "third_party"):
    for path in sorted((ROOT / top).rglob("*.py")):
      base = ROOT / "third_party" if top == "third_party" else ROOT
      parts = path.relative_to(base).with_suffix("").parts
      name = ".".join(p for p in parts if p != "__init__")
      found[name] = path
  return found


def _is_type_checking(node: ast.AST) -> bool:
  return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(
  tree: ast.AST, module: str, is_package: bool, types: bool = False
) -> set[str]:
  """Names that `module` imports; of `from a import b` both a and a.b.

  types: what is imported for its types alone, too.
  """
  names = set()
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        parts = module.split(".") + ([""] if is_package else [])
        parent = ".".join(parts[: -node.level])
        base = f"{parent}.{base}".rstrip(".")
      names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    elif types or not _is_type_checking(node):
      names |= imported(node, module, is_package, types)
  return names
