"""Collectives and large arrays, read from the text of an optimised program.

XLA's cost analysis counts the body of a loop once, and on GPUs not at all; the
text says how often it runs: on GPUs by a known trip count, on TPUs by the one
constant in the loop's condition. A loop whose length is data (micro-batches,
the blocks of keys that are seen) is counted once.
"""

import dataclasses
import math
import re
from collections import Counter, defaultdict

_COLLECTIVES = (
  *("all-gather", "reduce-scatter", "all-reduce", "all-to-all"),
  "collective-permute",
)
_ARRAY = re.compile(r"\b(pred|bf16|[fsu](?:8|16|32|64))\[([0-9,]*)\]")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*)$")
_OPERATION = re.compile(r"[)\]}] ([a-z][\w\-]*)\(")
_CALLED = re.compile(
  r"(?:body|condition|calls|to_apply|called_computations)=\{?%?([\w.\-]+)"
)
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
# Devices of a group, in the three ways of writing them.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_NAMED = re.compile(r"replica_groups=mesh\[(.*?)\] ?\{(.*?)\}")
# What passes arrays on and makes none.
_VIEWS = ("parameter", "tuple", "get-tuple-element", "while", "bitcast")


@dataclasses.dataclass(frozen=True)
class Array:
  text: str
  dims: tuple[int, ...]
  bytes: int


@dataclasses.dataclass(frozen=True)
class Instruction:
  computation: str
  operation: str
  arrays: list[Array]  # that it makes; of a tuple all its parts
  line: str
  source: str  # file:line of ours that made it, or unknown


def _array(dtype: str, dims: str) -> Array:
  sizes = tuple(int(n) for n in dims.split(",") if n)
  bits = 8 if dtype == "pred" else int(dtype.lstrip("bfsu"))
  return Array(f"{dtype}[{dims}]", sizes, bits // 8 * math.prod(sizes))


def instructions(text: str) -> list[Instruction]:
  """All instructions of a program, those inside fusions too."""
  out, computation, frames = [], "", _frames(text)
  for line in text.splitlines():
    if line.rstrip().endswith("{") and "= " not in line.split("(")[0]:
      words = line.replace("ENTRY ", "").split()
      computation = words[0].lstrip("%") if words else ""
      continue
    found = _INSTRUCTION.match(line)
    operation = found and _OPERATION.search(found[1])
    if operation:
      made = _ARRAY.findall(found[1][: operation.start() + 1])
      arrays, frame = [_array(*a) for a in made], _FRAME.search(line)
      source = frames.get(frame and frame[1], "unknown")
      out.append(Instruction(computation, operation[1], arrays, line, source))
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


def runs(found: list[Instruction]) -> dict[str, int]:
  """How often each computation runs in one call of the program."""
  constants, callers = defaultdict(list), defaultdict(list)
  for i in found:
    constants[i.computation] += map(int, _CONSTANT.findall(i.line))
  for i in found:
    times = 1
    if i.operation == "while":
      known = _TRIPS.findall(i.line)
      bounds = constants[_CONDITION.search(i.line)[1]]
      times = int(known[0]) if known else bounds[0] if len(bounds) == 1 else 1
    for called in _CALLED.findall(i.line):
      callers[called].append((i.computation, times))
  counts: dict[str, int] = {}

  def count(name):
    if name not in counts:
      counts[name] = sum(n * count(c) for c, n in callers[name]) or 1
    return counts[name]

  return {name: count(name) for name in constants}


def group_size(line: str) -> int:
  """How many devices take part in a collective."""
  if found := _LISTED.search(line):
    return found[1].count(",") + 1
  if found := _COUNTED.search(line):
    return int(found[1])
  if found := _NAMED.search(line):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    return math.prod(int(sizes[a]) for a in re.findall(r"'(\w+)'", found[2]))
  return 2  # of a pair: collective-permute names source and target


def _fused(found: list[Instruction]) -> set[str]:
  """The computations that fusions call."""
  fusions = (i.line for i in found if i.operation == "fusion")
  return {name for line in fusions for name in _CALLED.findall(line)}


def collective_bytes(found: list[Instruction]) -> Counter:
  """kind -> bytes that one device sends, in one call of the program.

  TPUs write one that goes on beside other work into several fusions, with one
  channel: it counts once.
  """
  times, out, fused, seen = runs(found), Counter(), _fused(found), set()
  for i in found:
    kind = i.operation.removesuffix("-start")
    if kind not in _COLLECTIVES:
      continue
    channel = _CHANNEL.search(i.line)
    if channel and i.computation in fused:
      if channel[1] in seen:
        continue
      seen.add(channel[1])
    n, whole = group_size(i.line), sum(a.bytes for a in i.arrays)
    if i.operation in ("all-gather-start", "reduce-scatter-start"):
      whole *= n / (n + 1)  # made are parts and whole arrays
    elif kind == "reduce-scatter":
      whole *= n
    passes = 2 if kind == "all-reduce" else 1
    out[kind] += int(passes * whole * (n - 1) / n * times[i.computation])
  return out


def largest(found: list[Instruction], count: int) -> list[tuple[int, str, str]]:
  """(bytes, type, source line) of the largest arrays that are made.

  Not those inside of a fusion, which stay in registers.
  """
  inside = _fused(found)
  made = {
    (a.bytes, a.text, i.source)
    for i in found
    if i.operation not in _VIEWS and i.computation not in inside
    for a in i.arrays
  }
  return sorted(made, reverse=True)[:count]
