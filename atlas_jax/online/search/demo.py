"""The scripted reflection model of `configs/online.py:demo`.

It stands in for a language model where there is none: it offers a fixed list
of wordings, one after another, and leaves it to the search which is better.
"""

_WORDINGS = (
  "{question}\nAdvice: {teaching}",
  "{question} Note: {teaching}",
  "{question} Hint: {teaching}",
  "Solve: {question} {teaching}",
)


def reflect(messages, sampling) -> str:
  """The first wording that the prompt does not show as tried."""
  del sampling
  asked = messages[-1]["content"]
  for wording in _WORDINGS:
    if f"```\n{wording}\n```" not in asked:
      return f"Another wording may be understood.\n```\n{wording}\n```"
  return "I have no other idea."
