"""Hints to problems of gym_problems.py, written by a program.

A hint does the middle steps and leaves the last one to the student. There are
several forms of each, and silence, so that GRPO has something to choose from.
None states the answer. How often Qwen2.5-Coder-0.5B-Instruct (of 4 bits) is
right with each, greedy, on 40 to 88 problems of train and validation:

  leg_counting    of two terms, the sum written out 0.92, the larger first 0.99;
                  of three, the sum 0.35, two sums 0.93; the one product where
                  the others have no legs 0.54, beside theirs 0.78; products
                  alone 0.46, the sum alone 0.32, silence and no hint 0.00
  lcm             the larger times 0.65, the smaller times 0.38, the divisor
                  0.57, silence 0.28; without a hint 0.33
  group_anagrams  the form of the answer 0.96, sorted letters 0.46, silence
                  0.60; without a hint 0.62

The words "Write out A + B = and the total." matter: products alone help less.
Of eighteen ways to ask for three terms the best is the one below (the others
0.25 to 0.90). That the teacher adds two of them itself would be as good, if it
could: a SmolLM2-135M that was shown some 500 such hints adds right in 4 of 10.
"""

import math

from atlas_jax.data.problems import make_problem
from atlas_jax.teaching.rewards import leaks

# How often each form is drawn, in the order in which they are written; what is
# left of 1 is silence.
WEIGHTS = {
  "leg_counting": (0.3, 0.4, 0.15, 0.1),
  "lcm": (0.45, 0.25, 0.2),
  "group_anagrams": (0.25, 0.2),
}
SILENCE = "No help is needed."


def _leg_counting(animals: dict) -> list[str]:
  from reasoning_gym.arithmetic.leg_counting import ANIMALS

  counts = [(name, n, ANIMALS[name]) for name, n in animals.items()]
  terms = [n * legs for _, n, legs in counts if legs]
  if not terms:
    return ["Which of them have legs?"] * 4
  alone = len(terms) == 1  # then the only product is the answer
  products = "; ".join(
    f"{name}: {n} x {legs}" + ("" if alone and legs else f" = {n * legs}")
    for name, n, legs in counts
  )
  written = _sum(terms)
  if alone:
    (written,) = (f"{n} x {legs}" for _, n, legs in counts if legs)
  last = careful = f"Write out {written} = and the total."
  if len(terms) == 2:
    careful = f"Write out {_sum(sorted(terms)[::-1])} = and the total."
  elif len(terms) == 3:
    careful = (
      f"Write out both: {_sum(terms[:2])} = and the sum, then the sum +"
      f" {terms[2]} = and the total."
    )
  return [f"{products}. {last}", f"{products}. {careful}", f"{products}.", last]


def _sum(terms: list[int]) -> str:
  return " + ".join(map(str, terms))


def _lcm(numbers: list[int]) -> list[str]:
  small, big = sorted(numbers)
  common = math.gcd(small, big)
  return [
    f"Write out {big} x {small // common} = and the result.",
    f"Write out {small} x {big // common} = and the result.",
    f"Both can be divided by {common}. Multiply {big} by {small // common}.",
  ]


def _group_anagrams(words: list[str]) -> list[str]:
  letters = ", ".join(f"{word}: {''.join(sorted(word))}" for word in words)
  return [
    "Answer with a list of two lists of two words.",
    f"Sorted letters: {letters}.",
  ]


WRITERS = {
  "leg_counting": _leg_counting,
  "lcm": _lcm,
  "group_anagrams": _group_anagrams,
}


def hints(row: dict) -> list[str]:
  """A hint of each form; silence where it would state the answer, and last."""
  problem = make_problem(row["question"], row["answer"])
  made = [*WRITERS[row["task"]](row["facts"]), SILENCE]
  return [SILENCE if leaks(hint, problem) else hint for hint in made]
