"""Collectives and large arrays, read from the text of an optimised program.

XLA's cost analysis counts the body of a loop once, and on GPUs not at all; the
text has the trip counts of loops whose length is fixed, on GPUs. On TPUs it has
none: there the innermost loop that carries arrays [layers, ...] is taken for
that over layers. The body of any other loop (over micro-batches, and on TPUs
over slices of the vocabulary) is counted once.
"""

import dataclasses
import math
import re
from collections import Counter, defaultdict

_COLLECTIVES = (
  *("all-gather", "reduce-scatter", "all-reduce", "all-to-all"),
  "collective-permute",
)
_SIZES = {"f64": 8, "s64": 8, "u64": 8, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_SIZES |= {"pred": 1, "s8": 1, "u8": 1, "f32": 4, "s32": 4, "u32": 4}
_ARRAY = re.compile(rf"\b({'|'.join(_SIZES)})\[([0-9,]*)\]")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPERATION = re.compile(r"[)\]}] ([a-z][\w\-]*)\(")
_CALLED = re.compile(
  r"(?:body|condition|calls|to_apply|called_computations)=\{?%?([\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\])")
_FRAME = re.compile(r"stack_frame_id=(\d+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
  computation: str
  operation: str
  shape: str  # as in the text; of a tuple all its parts
  line: str
  source: str  # file:line of ours that made it, or unknown

  def arrays(self) -> list[int]:
    """Bytes of the arrays that it makes."""
    return [
      _SIZES[dtype] * math.prod(int(n) for n in dims.split(",") if n)
      for dtype, dims in _ARRAY.findall(self.shape)
    ]

  def dims(self) -> list[tuple[int, ...]]:
    return [
      tuple(int(n) for n in dims.split(",") if n)
      for _, dims in _ARRAY.findall(self.shape)
    ]


def instructions(text: str) -> list[Instruction]:
  """All instructions of a program, those inside fusions too."""
  out, computation, frames = [], "", _frames(text)
  for line in text.splitlines():
    if line.rstrip().endswith("{") and "= " not in line.split("(")[0]:
      words = line.replace("ENTRY ", "").split()
      computation = words[0].lstrip("%") if words else ""
      continue
    found = _INSTRUCTION.match(line)
    operation = found and _OPERATION.search(found[2])
    if operation:
      shape = found[2][: operation.start() + 1]
      frame = _FRAME.search(line)
      source = frames.get(frame and frame[1], "unknown")
      out.append(Instruction(computation, operation[1], shape, line, source))
  return out


def _frames(text: str) -> dict[str | None, str]:
  """Stack frame -> file:line, from the tables at the head of the text."""

  def table(name, entry):
    section = re.search(rf"^{name}\n((?:\d+ .*\n)+)", text, re.M)
    return dict(re.findall(entry, section[1], re.M)) if section else {}

  files = table("FileNames", r'^(\d+) "(.*)"$')
  lines = table("FileLocations", r"^(\d+) (\{.*\})$")
  frames = table("StackFrames", r"^(\d+) \{file_location_id=(\d+)")
  places = {}
  for at, entry in lines.items():
    file, line = re.search(r"file_name_id=(\d+).* line=(\d+)", entry).groups()
    places[at] = f"{files.get(file, '?').rpartition('atlas_jax/')[2]}:{line}"
  return {frame: places.get(at, "unknown") for frame, at in frames.items()}


def runs(found: list[Instruction], layers: int) -> dict[str, int]:
  """How often each computation runs in one call of the program."""
  callers = defaultdict(list)

  def carries_layers(i):
    return any(len(d) > 1 and d[0] == layers for d in i.dims())

  loops = [i for i in found if i.operation == "while" and carries_layers(i)]
  outer = {i.computation for i in loops}
  for i in found:
    times = 1
    if i.operation == "while":
      trips = _TRIPS.search(i.line)
      inner = i in loops and not outer & set(_CALLED.findall(i.line))
      times = int(trips[1]) if trips else layers if inner else 1
    for called in _CALLED.findall(i.line):
      callers[called].append((i.computation, times))
  counts: dict[str, int] = {}

  def count(name):
    if name not in counts:
      counts[name] = sum(n * count(c) for c, n in callers[name]) or 1
    return counts[name]

  return {name: count(name) for name in {i.computation for i in found}}


def collective_bytes(found: list[Instruction], layers: int) -> Counter:
  """kind -> bytes that one device sends, in one call of the program."""
  times, out = runs(found, layers), Counter()
  for i in found:
    kind = i.operation.removesuffix("-start")
    if kind not in _COLLECTIVES or not i.arrays():
      continue
    groups = _GROUPS.search(i.line)
    n = 2
    if groups:
      n = int(groups[2]) if groups[2] else groups[1].count(",") + 1
    # A start makes (operand, result), of which the larger is the whole array;
    # other tuples are several arrays in one operation.
    started = i.operation.endswith("-start")
    whole = max(i.arrays()) if started else sum(i.arrays())
    if kind == "reduce-scatter" and not started:
      whole *= n
    passes = 2 if kind == "all-reduce" else 1
    sent = passes * whole * (n - 1) / n
    out[kind] += int(sent * times[i.computation])
  return out


def largest(found: list[Instruction], count: int) -> list[tuple[int, str, str]]:
  """(bytes, type, source line) of the largest arrays that are made.

  Views, loops and arguments are not made; neither is what a fusion has inside.
  """
  passed_on = ("parameter", "tuple", "get-tuple-element", "while", "bitcast")
  inside = {
    called
    for i in found
    if i.operation == "fusion"
    for called in _CALLED.findall(i.line)
  }
  seen = {}
  for i in found:
    if i.operation not in passed_on and i.computation not in inside:
      for size, array in zip(i.arrays(), _ARRAY.finditer(i.shape), strict=True):
        seen[array[0], i.source] = size
  ordered = sorted(((b, t, s) for (t, s), b in seen.items()), reverse=True)
  return ordered[:count]
