"""The table that is printed from the rows of a benchmark."""

import re
from collections.abc import Iterable

_GIB = 1 << 30

# TFLOP/s of dense bf16 products: data sheets of NVIDIA, without sparsity. The
# first name that a card's name holds is taken.
_PEAKS = {
  "H100 PCIe": 756,
  "H100 NVL": 835,
  "H100": 989,
  "H200 NVL": 835,
  "H200": 989,
  "B200": 2250,
  "A100": 312,
  "L40S": 362,
  "A10": 125,
  "L4": 121,
}
_WRITE_A_KERNEL = 0.25  # attention's share of a step above which it is worth it


def peak_flops(card: str) -> float | None:
  """Of the card, a second; None where it is not known."""
  for name, tera in _PEAKS.items():
    if re.search(rf"\b{name}\b", card):
      return tera * 1e12
  return None


def _lines(columns: Iterable[str], rows: list[list[str]]) -> list[str]:
  """Columns as wide as what stands in them; the last is not filled up."""
  all_rows = [list(columns), *rows]
  widths = [max(map(len, column)) for column in zip(*all_rows, strict=True)]
  return [
    "  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip()
    for row in all_rows
  ]


def _attention(rows: list[dict]) -> list[str]:
  """One line for a length and mask, one column for each that was measured."""
  names = list(dict.fromkeys(r["who"] for r in rows))
  places = dict.fromkeys((r["tokens"], r["rows"], r["mask"]) for r in rows)
  cells, notes = {}, {}
  for r in rows:
    place = r["tokens"], r["rows"], r["mask"], r["who"]
    if "note" in r:
      cells[place] = "-"
      notes.setdefault((r["who"], r["note"]), []).append(r["tokens"])
    else:
      tera = 3 * r["flops"] / r["both_s"] / 1e12
      cells[place] = (
        f"{1e3 * r['forward_s']:.2f} / {1e3 * r['both_s']:.2f} ({tera:.0f})"
      )
  lines = _lines(
    ["tokens x rows", "mask", *names],
    [
      [f"{t} x {n}", mask, *(cells.get((t, n, mask, w), "") for w in names)]
      for t, n, mask in places
    ],
  )
  for (who, note), lengths in notes.items():
    at = ", ".join(map(str, dict.fromkeys(lengths)))
    lines.append(f"  {who} at {at}: {note}")
  worst = max((r["error"] for r in rows if "error" in r), default=0.0)
  lines.append(f"  largest difference to ours: {worst:.2g}")
  return lines


def _gib(size: int | None) -> str:
  return "-" if size is None else f"{size / _GIB:.2f}"


def _step_rows(rows: list[dict], peak: float | None) -> list[list[str]]:
  ours = {
    (r["kind"], r["shape"]): r["step_s"]
    for r in reversed(rows)
    if r["who"] == "ours"
  }
  out = []
  for r in rows:
    own = ours.get((r["kind"], r["shape"]))
    share = r.get("attention_s")
    mfu = peak and r["model_flops"] / r["step_s"] / peak
    out.append(
      [
        *(r["kind"], r["shape"], r["who"], f"{r['step_s']:.3f}"),
        f"{r['tokens'] / r['step_s']:.0f}",
        f"{mfu:.1%}" if mfu else "-",
        f"{r['step_s'] / own:.2f}" if own else "-",
        *(_gib(r["peak_bytes"]), _gib(r.get("forecast_bytes"))),
        "-" if share is None else f"{share / r['step_s']:.0%}",
        *(f"{r['loss']:.5f}", f"{r['grad_norm']:.5f}", r["how"]),
      ]
    )
  return out


def _publish(rows: list[dict]) -> list[str]:
  columns = ("export", "compare", "write", "total")
  return _lines(
    ["shape", "kind", "GB", "of all", *(f"{c} s" for c in columns), "hash"],
    [
      [
        *(r["shape"], r["kind"], f"{r['bytes'] / 1e9:.3f}"),
        f"{r['bytes'] / r['of_bytes']:.1%}",
        *(f"{r[f'{c}_s']:.2f}" for c in columns),
        r["hash"],
      ]
      for r in rows
    ],
  )


def _verdict(rows: list[dict]) -> list[str]:
  out = []
  for r in rows:
    if r.get("attention_s") is None:
      continue
    share = r["attention_s"] / r["step_s"]
    worth = "above" if share > _WRITE_A_KERNEL else "not above"
    out.append(
      f"attention takes {share:.0%} of our {r['kind']} step at {r['shape']},"
      f" {r['how']}: {worth} the {_WRITE_A_KERNEL:.0%} from which a kernel of"
      " our own is worth writing"
    )
  return out


def text(rows: list[dict]) -> str:
  """All that is known, also where stages are missing."""
  sections = {}
  for row in rows:
    sections.setdefault(row["section"], []).append(row)
  card, *_ = sections["card"]
  peak = peak_flops(card["name"])
  versions = ", ".join(
    f"{k} {v}" for k, v in card.items() if k not in ("section", "name")
  )
  known = f"{peak / 1e12:.0f} TFLOP/s in bf16" if peak else "peak not known"
  lines = [f"{card['name']} ({known}); {versions}"]
  if steps := sections.get("step"):
    lines += ["", "Steps. Useful tokens: a prompt counts once for its group"]
    columns = ("step", "shape", "who", "seconds", "tokens/s", "MFU", "x ours")
    columns += ("GiB", "forecast", "attention", "loss", "grad norm", "how")
    lines += _lines(columns, _step_rows(steps, peak)) + _verdict(steps)
  if found := sections.get("attention"):
    title = "Attention: ms forward / forward and backward (TFLOP/s of both)"
    lines += ["", title, *_attention(found)]
  if found := sections.get("publish"):
    lines += ["", "Publishing on one host, no server", *_publish(found)]
  stages = sections.get("stage", [])
  missing = [s for s in stages if s["status"] != "done"]
  lines += ["", f"{len(stages) - len(missing)} of {len(stages)} stages done"]
  lines += [f"  {s['name']}: {s['status']}, {s['reason']}" for s in missing]
  return "\n".join(lines)
