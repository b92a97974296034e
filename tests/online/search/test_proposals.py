"""Which text between fences is the template that a reply proposes."""

import pytest

from tests.online.scripted_reflection import GOOD, NOW, Scripted, ask, reflector

MORE = "Then {question} in other words, with {probe}."
CODE = "```python\nprint(1)\n```"


def proposed(reply):
  """(the text that is taken, else None; why it is not)."""
  r = reflector(Scripted(reply), attempts=1)
  text = ask(r)
  return text, r.refused[-1][2] if r.refused else None


HOLDS = f"{GOOD}\n{CODE}\nBe kind."
BARE = f"{GOOD}\n```\nprint(1)\n```\nBe kind."


@pytest.mark.parametrize(
  ("reply", "text"),
  [
    (f"I think:\n```\n{GOOD}\n```\n", GOOD),
    (f"```text\n{GOOD}\n```", GOOD),
    (f"<think>```\nno\n```</think>\n```\n{GOOD}\n```", GOOD),
    (f"````\n{HOLDS}\n````", HOLDS),
    (f"````markdown\n{BARE}\n````", BARE),
    (f"`````\n{BARE}\n`````", BARE),
    (f"~~~\n{GOOD}\n~~~", GOOD),
    (f"~~~\n{HOLDS}\n~~~", HOLDS),
    (f"~~~ text\n{BARE}\n~~~~", BARE),
    (f"```\n{GOOD}\n~~~\nx\n~~~\n```", f"{GOOD}\n~~~\nx\n~~~"),
    (f"```\r\n{GOOD}\r\nBe kind.\r\n```\r\n", f"{GOOD}\nBe kind."),
    (f"  ```\n  {GOOD}\n  Be kind.\n  ```", f"{GOOD}\nBe kind."),
    (f"``` prompt template \n{GOOD}\n```  ", GOOD),
    (f"```\n{GOOD}\n````", GOOD),  # a longer one ends it too
    (f"```\n{GOOD}\n    ```\nBe kind.\n```", f"{GOOD}\n    ```\nBe kind."),
    (f"Use ```x``` so:\n```\n{GOOD}\n```", GOOD),
    # Another block that cannot be a part of it, nor the template.
    (f"```\n{GOOD}\n```\nSo:\n```text\nWhat is 1+1?\n```", GOOD),
    (f"````\n{GOOD}\n````\nSo:\n```\nWhat is 1+1?\n```", GOOD),
    (f"```\n{NOW}\n```\nbecomes\n```\n{GOOD}\n```", GOOD),
  ],
)
def test_what_is_taken(reply, text):
  assert proposed(reply) == (text, None)


UNSURE = "not clear which ``` ends the template"


@pytest.mark.parametrize(
  ("reply", "why"),
  [
    # A fence inside: the text before, or after it, is a part.
    (f"```\n{HOLDS}\n```", UNSURE),
    (f"```\n{BARE}\n```", UNSURE),
    (f"```text\n{HOLDS}\n```", UNSURE),
    (f"```\nBe kind.\n{CODE}\n{GOOD}\n```", UNSURE),
    (f"```\nBe kind.\n```\nprint(1)\n```\n{GOOD}\n```", UNSURE),
    (f"```\n{GOOD}\n{CODE}\n```", UNSURE),
    (f"```\n{GOOD}\n{CODE}", UNSURE),
    (f"````\n{GOOD}\n````\n````\nBe kind.", UNSURE),
    # A block and an example that could be the end of it.
    (f"```\n{GOOD}\n```\nFor example:\n```\nWhat is 1+1?\n```", UNSURE),
    (f"```\n{GOOD}\n```\nOr:\n```text\n{MORE}\n```", "2 blocks between fences"),
    ("```text\nNo.\n```\n~~~\nNor this.\n~~~", "is missing"),
    (f"```\n{GOOD}\n", "no text between ``` fences"),
    (f"```\n{GOOD}\n``", "no text between ``` fences"),
    (f"    ```\n    {GOOD}\n    ```", "no text between ``` fences"),
    (f"```\n{GOOD}\n~~~", "no text between ``` fences"),
    (f"````\n{GOOD}\n```", "no text between ``` fences"),
    (f"```\n{GOOD}\n``` the end", "no text between ``` fences"),
    ("```\n```", "is missing"),
    (GOOD, "no text between ``` fences"),
    (f"<think>\n```\n{GOOD}\n```", "no text between ``` fences"),
    ("```\nLook at {question}.\n```", "{probe} is missing"),
    (f"```\n{GOOD} {{answer}}\n```", "{answer} is unknown"),
    (f"```\n{GOOD} {{x:d}}\n```", "without a format"),
    (f"```\n{GOOD} }}\n```", "Single '}'"),
    (f"```\n{GOOD}{'x' * 4000}\n```", "at most 4000 are allowed"),
    (f"```\n{NOW}\n```", "as it was"),
  ],
)
def test_what_is_refused_and_why(reply, why):
  text, said = proposed(reply)
  assert text is None and why in said


def test_a_template_with_fences_is_shown_whole():
  model = Scripted(f"````\n{HOLDS}\n````")
  ask(reflector(model), BARE)
  assert f"\n````\n{BARE}\n````\n" in model.prompt(0)
