"""The student of small_world.py; each process that plays it imports this."""

import re


def student(prompt: str) -> str:
  a, b = map(int, re.search(r"(\d+)\+(\d+)", prompt).groups())
  if prompt.startswith("OUTLINE"):
    return f"I add {a} and {b}"
  right = a % 2 == 0 or (prompt.startswith("GUIDED") and "carry" in prompt)
  words = "so so so so so so" if prompt.startswith("SOLVE") else "so"
  return f"{words} <solution>{a + b + (not right)}</solution>"
