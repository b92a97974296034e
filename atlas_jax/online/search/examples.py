"""What the reflection model is shown of a rollout: its texts and a verdict."""

from atlas_jax.online.search.rollouts import Rollout

_CUT = " [...] "


def shorten(text: str, limit: int) -> str:
  """`text`, without its middle where it is over `limit` characters."""
  if len(text) <= limit:
    return text
  half = max(1, (limit - len(_CUT)) // 2)
  return text[:half] + _CUT + text[-half:]


def verdict(rollout: Rollout) -> str:
  """How the taught solution was judged, against the unaided one."""
  if rollout.scored is None or rollout.score is None:
    return f"Not judged ({rollout.why})."
  (alone,), (scored,) = rollout.scored.baseline, rollout.scored.teachings
  taught = scored.verdict
  ways = {
    (False, True): "The teaching FIXED it: wrong without, right with it.",
    (True, True): "Right with and without the teaching.",
    (True, False): "The teaching BROKE it: right without, wrong with it.",
    (False, False): "Wrong with and without the teaching.",
  }
  lines = [ways[alone.score > 0.5, taught.score > 0.5]]
  for who, one in (("Unaided", alone), ("With teaching", taught)):
    said = "no answer was found" if one.answer is None else repr(one.answer)
    if one.status == "truncated":
      said = "it was cut at its length before an answer"
    if one.share is not None:
      said += f" (score {one.score:.2f} of 1)"
    lines.append(f"{who}: {said}.")
  lines.append(f"The right answer: {rollout.problem.answer!r}.")
  if scored.teaching.status != "ok":
    lines.append(
      f"The teacher's <teaching> tags were {scored.teaching.status}, so the"
      " student got an empty teaching."
    )
  if scored.leaked:
    lines.append("The teaching states the answer, which is forbidden.")
  saved = rollout.objectives["efficiency"]
  lines.append(
    f"Score {rollout.score:.3f}; tokens of the response saved: {saved:.0%}."
  )
  return " ".join(lines)


def example(rollout: Rollout, limit: int) -> dict[str, str]:
  """One example. `limit` is in characters a text."""
  texts = {"Question": rollout.problem.question}
  if rollout.scored is not None:
    episode = rollout.scored.episode
    (alone,), (teaching,) = episode.baseline, episode.teachings
    texts |= {
      "The student's plan": episode.probe,
      "What the teacher wrote": teaching.said.text,
      "The student's unaided response": alone.text,
      "The student's response with the teaching": teaching.taught.text,
    }
  out = {k: shorten(v or "(none)", limit) for k, v in texts.items()}
  return out | {"Verdict": verdict(rollout)}
