"""All our exceptions have one base, which launchers print as one line."""

import ast

from tests.source_tree import modules


def _bases() -> dict[str, set[str]]:
  """The classes of the package and the launchers -> names of their bases."""
  found = {}
  for module, path in modules().items():
    if module.startswith(("atlas_jax", "launchers")):
      for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
          names = {ast.unparse(base).split(".")[-1] for base in node.bases}
          found.setdefault(node.name, set()).update(names)
  return found


def test_every_exception_of_ours_is_an_atlas_error():
  bases = _bases()

  def roots(name: str) -> set[str]:
    return set().union(*map(roots, bases[name])) if name in bases else {name}

  def ours(name: str) -> bool:
    return name == "AtlasError" or any(map(ours, bases.get(name, ())))

  raised = {
    name
    for name in bases
    # Stopped is a BaseException: no `except Exception` may swallow a signal.
    if any(
      r.endswith(("Error", "Exception")) and r != "BaseException"
      for r in roots(name)
    )
  }
  assert len(raised) > 40
  assert not [name for name in sorted(raised) if not ours(name)]
