"""Templates for the tasks of gym_problems.py, written by hand and frozen.

They are the rival of a trained teacher: `reflect` offers them one after another
to an optimisation (configs/online.py:qwen05_gym), which keeps what is best on
validation. WORDS[task] end the template of the taught student, EXAMPLES[task]
that of the teacher. The list was complete before any teacher was trained on the
reward, and is not changed by what one learned.
"""

import re

TAUGHT = (
  "{{question}}\nHint: {{teaching}}\n{words}\nGive the answer inside"
  " <solution></solution> tags."
)
TEACHER = (
  "{{question}}\nThe student's plan: {{probe}}\nWrite a hint for the student"
  " inside <teaching></teaching> tags. An example for another problem:\n{words}"
)

WORDS = {
  "leg_counting": (
    "Multiply the number of each animal by its legs, then add.",
    "Write each product, then their sum = the total.",
    "Write out the products with + between them = and the total.",
    "First say how many legs each animal has. Then multiply. Then add.",
    "Make a line for each animal: name: number x legs = product. Then add the"
    " products.",
    "Example: 3 dogs, 2 ants: 3 x 4 = 12; 2 x 6 = 12; 12 + 12 = 24.",
    "Example: 5 ducks, 2 spiders, 1 cow: 5 x 2 = 10; 2 x 8 = 16; 1 x 4 = 4; 10"
    " + 16 = 26; 26 + 4 = 30.",
    "Insects have 6 legs, spiders and scorpions 8, crabs, lobsters and shrimps"
    " 10, birds and humans 2, other beasts 4.",
    "Snakes, leeches, flatworms, jellyfish and sea slugs have no legs. A"
    " starfish has 5, a woodlouse 14, a crab 10, an insect 6.",
    "Legs: 2 human, bird, duck, chicken; 4 dog, cat, cow; 6 ant, bee, wasp; 8"
    " spider; 10 crab. Multiply and add.",
    "Add two products first, then the third.",
    "Inside the tags write number x legs + number x legs = total.",
    "Inside the tags write the sum of the products = and the total.",
    "Think of one animal at a time. Keep a running total.",
    "Do not guess: write each step before the answer.",
    "Do not count the animals. Count their legs.",
  ),
  "lcm": (
    "Divide the product of both numbers by their greatest common divisor.",
    "Find the greatest common divisor first, then multiply.",
    "Write out the multiples of the larger number until one can be divided by"
    " the smaller.",
    "If the numbers have no common divisor, multiply them.",
    "If the larger can be divided by the smaller, the larger is the answer.",
    "Write both numbers as products of primes. Take each prime as often as it"
    " stands in one of them.",
    "Example: 12, 18: both can be divided by 6, so 12 x 3 = 36.",
    "Example: 8, 20: both can be divided by 4, so 20 x 2 = 40.",
    "Example: 9, 7: no common divisor, so 9 x 7 = 63.",
    "Example: 15, 10: multiples of 15: 15, 30. 30 can be divided by 10.",
    "Write larger x something = the answer.",
    "Inside the tags write out the product = and the result.",
    "Try the larger number x 1, x 2, x 3 and stop at the first that the smaller"
    " divides.",
    "The answer is a multiple of both, and the smallest one.",
    "Check that both numbers divide your answer.",
    "The answer is never smaller than the larger number.",
  ),
  "group_anagrams": (
    "Answer with a list of two lists of two words.",
    "Write [[word, word], [word, word]].",
    "There are two groups of two words each.",
    "Use each of the four words exactly once.",
    "Two words belong together if they have the same letters.",
    "Do not explain. Write the list of lists.",
    "Write the groups as lists of words in quotation marks, nothing else.",
    "Take the first word and find the one with the same letters. The other two"
    " are the second group.",
    "Anagrams have the same length. Compare lengths first.",
    "Copy the words letter by letter; do not change them.",
    'Example: ["eat", "tan", "tea", "nat"]: [["eat", "tea"], ["tan", "nat"]].',
    'Example: ["stop", "care", "race", "pots"]: [["stop", "pots"], ["care",'
    ' "race"]].',
    "Compare the first letters of the sorted words.",
    "No group has one word or three words.",
    "Ignore the hint if it does not help.",
    "Solve it as you would without a hint.",
  ),
}
EXAMPLES = {
  "leg_counting": (
    "<teaching>dog: 3 x 4 = 12; ant: 2 x 6 = 12. Write out 12 + 12 = and the"
    " total.</teaching>",
    "<teaching>Write out 10 + 16 = and the total.</teaching>",
  ),
  "lcm": (
    "<teaching>Write out 18 x 2 = and the result.</teaching>",
    "<teaching>Both can be divided by 6. Multiply 18 by 2.</teaching>",
  ),
  "group_anagrams": (
    "<teaching>No help is needed.</teaching>",
    "<teaching>Answer with a list of two lists of two words.</teaching>",
  ),
}
# What shows the task of a question.
_SIGNS = {
  "leg_counting": "how many legs",
  "lcm": "Least Common Multiple",
  "group_anagrams": "into anagrams",
}


def offers(template: str, tasks: list[str]) -> list[str]:
  """All texts for `teacher` or `student_taught`, the tasks in turn."""
  form, words = (
    (TEACHER, EXAMPLES) if template == "teacher" else (TAUGHT, WORDS)
  )
  rounds = zip(*(words[task] for task in tasks), strict=True)
  return [form.format(words=text) for texts in rounds for text in texts]


_offered: set[str] = set()


def reflect(messages, sampling) -> str:
  """The next text that was not offered, as a reflection model answers."""
  del sampling
  asked = messages[-1]["content"]
  template = re.search(r"The template is (\w+):", asked)[1]
  tasks = [task for task, sign in _SIGNS.items() if sign in asked]
  for text in offers(template, tasks):
    if text not in _offered and f"```\n{text}\n```" not in asked:
      _offered.add(text)
      return f"```\n{text}\n```"
  return "I have no other text."
