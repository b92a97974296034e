"""A run as one HTML file: what it showed, and every episode behind that.

The file needs no network and no other file: page.html is its frame, page.css
and page.js stand in it, figures are SVG, episodes are JSON. What a model wrote
is data: JSON whose <, > and & are escaped, shown as text.

MOST_BYTES bounds what is embedded of evaluations; where problems are left out
the page says so.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

import jinja2

from atlas_jax import config_tree, directory, files
from atlas_jax.reports import curves, page_data, tables
from atlas_jax.reports.reading import RunFiles

MOST_BYTES = 2_200_000
MOST_TRAINING_BYTES = 400_000


def rendered(template: str, **values) -> str:
  """The HTML of a template beside this file; texts are escaped in it."""
  environment = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
  )
  return environment.get_template(template).render(values)


def escaped_json(value) -> str:
  """JSON that may stand in a script element, whatever its texts are."""
  # NaN and infinity are no JSON that a browser reads.
  value = json.loads(json.dumps(value), parse_constant=lambda _: None)
  text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
  for sign in "<>&\u2028\u2029":
    text = text.replace(sign, f"\\u{ord(sign):04x}")
  # A lone surrogate is no text that UTF-8 could write.
  return text.encode("utf-8", "replace").decode()


def verdict(evaluation: Mapping | None) -> str:
  """One sentence: the last arm's gain, its interval, harm and cost."""
  if evaluation is None:
    return "This run has no evaluation yet."
  alone, arm = evaluation["arms"][0], evaluation["arms"][-1]
  text = (
    f"{arm['name']}: {100 * arm['accuracy']:.1f}% of {evaluation['problems']}"
    f" problems ({evaluation['split']})"
  )
  if arm["gain"] is None:
    return f"{text}; there is no taught arm."
  kept = arm["non_degradation_correct"]
  stayed = "none was" if kept is None else f"{100 * kept:.1f}% stayed"
  saved = alone["response_tokens"] - arm["response_tokens"]
  low, high = 100 * arm["gain_low"], 100 * arm["gain_high"]
  return (
    f"{text}, against {100 * alone['accuracy']:.1f}% alone: gain"
    f" {100 * arm['gain']:+.1f} points [{low:.1f}, {high:.1f}]. Of the answers"
    f" right alone {stayed} right."
    f" Cost: {arm['teaching_tokens']:.1f} tokens of teaching and"
    f" {arm['seconds_per_problem']:.2f} s a problem; answers are"
    f" {abs(saved):.1f} tokens {'shorter' if saved >= 0 else 'longer'}."
  )


# What a reader wants to know of a config; keys that a run lacks are left out.
_PROVENANCE = {
  **{"phases": "Phases", "seed": "Seed", "data.source": "Data"},
  **{"data.path": "Data path", "data.seed": "Seed of the data"},
  **{"data.fingerprint": "Data fingerprint", "teacher.path": "Teacher"},
  **{"teacher.model": "Teacher", "student.path": "Student"},
  "student.model": "Student",
}


def _provenance(run: RunFiles) -> list[tuple[str, str]]:
  config = dict(config_tree.flat(run.config))
  rows = [("Directory", run.workdir.name)]
  rows += [(title, config.get(key)) for key, title in _PROVENANCE.items()]
  if run.metrics:
    last = run.metrics[-1]
    rows.append(("Last step", f"{last['phase']} {last['step']}"))
  started = run.workdir / "started.json"
  if started.exists():
    rows += files.read_json(started).items()
  return [(title, str(value)) for title, value in rows if value is not None]


def page(
  run: RunFiles,
  *,
  other: RunFiles | None = None,
  compared: Sequence[tuple[str, str]] = (),
  most_bytes: int = MOST_BYTES,
  most_training_bytes: int = MOST_TRAINING_BYTES,
) -> str:
  """The HTML text.

  Args:
    run: what the page is of.
    other: a run whose config is held against this one.
    compared: rows about both, as launchers.compare prints them.
    most_bytes, most_training_bytes: of the episodes that are embedded.
  """
  data, omitted = {"arms": [], "alone": [], "problems": [], "attempts": []}, ""
  if run.attempts:
    data, omitted = page_data.evaluation(run, most_bytes)
  training, training_note = page_data.training(
    run.training, most_training_bytes
  )
  data["training"] = training
  named, difference = None, []
  if other is not None:
    named = other.workdir.name
    difference = config_tree.difference(run.config, other.config)
  return rendered(
    "page.html",
    title=f"Report of {run.workdir.name}",
    verdict=f"{run.note} {verdict(run.last)}".strip(),
    tables=[] if run.last is None else list(tables.parts(run.last)),
    omitted=omitted,
    training=bool(training),
    training_note=training_note,
    figures=curves.all_figures([run.metrics]) if run.metrics else [],
    other=named,
    difference=difference,
    compared=compared,
    provenance=_provenance(run),
    data=escaped_json(data),
  )


def write(run: RunFiles, path: pathlib.Path, **options) -> int:
  """Writes the page whole; returns its bytes. Options as `page` takes them."""
  text = page(run, **options)
  directory.write_whole(path, text)
  return len(text.encode())
