"""What the reflection model is told about one rollout, in plain words."""

from atlas_jax.online.rollouts import Rollout

_LONG = " [...] "


def shorten(text: str, limit: int) -> str:
  """`text`, without its middle where it is over `limit` characters."""
  if len(text) <= limit:
    return text
  half = max(1, (limit - len(_LONG)) // 2)
  return text[:half] + _LONG + text[-half:]


def verdict(rollout: Rollout) -> str:
  """How the guided solution was judged, against the unaided one."""
  if rollout.scored is None or rollout.score is None:
    return f"Not judged ({rollout.why})."
  (alone,), (guided,) = rollout.scored.baseline, rollout.scored.guided
  ways = {
    (False, True): "The teaching FIXED it: wrong without, right with it.",
    (True, True): "Right with and without the teaching.",
    (True, False): "The teaching BROKE it: right without, wrong with it.",
    (False, False): "Wrong with and without the teaching.",
  }
  lines = [ways[alone.score > 0.5, guided.score > 0.5]]
  for who, one in (("Unaided", alone), ("With teaching", guided)):
    said = "no answer was found" if one.answer is None else repr(one.answer)
    if one.status == "truncated":
      said = "it was cut at its length before an answer"
    if one.share is not None:
      said += f" (score {one.score:.2f} of 1)"
    lines.append(f"{who}: {said}.")
  lines.append(f"The right answer: {rollout.problem.answer!r}.")
  (teaching,), (leaked,) = (
    rollout.scored.episode.teachings,
    rollout.scored.leaked,
  )
  if rollout.why is not None:
    lines.append(f"A reply held no answer ({rollout.why}).")
  elif teaching.status != "ok":
    lines.append(
      f"The teacher's <teaching> tags were {teaching.status}, so the student"
      " got an empty teaching."
    )
  if leaked:
    lines.append("The teaching states the answer, which is forbidden.")
  saved = rollout.objectives["efficiency"]
  lines.append(
    f"Score {rollout.score:.3f}; tokens of the response saved: {saved:.0%}."
  )
  return " ".join(lines)


def record(rollout: Rollout, limit: int) -> dict[str, str]:
  """One example. `limit` is in characters a text."""
  taught = rollout.taught
  guided = taught.guided.text if taught.guided is not None else None
  written = taught.teaching_reply.text if taught.teaching_reply else None
  texts = {
    "Question": rollout.problem.question,
    "The student's approach": taught.approach,
    "What the teacher wrote": written,
    "The student's unaided response": rollout.baseline.text,
    "The student's response with the teaching": guided,
  }
  out = {k: shorten(v or "(none)", limit) for k, v in texts.items()}
  return out | {"Verdict": verdict(rollout)}
