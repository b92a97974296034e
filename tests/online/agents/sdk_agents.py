"""Agents of the OpenAI Agents SDK, loaded by the tests as a user's file."""

from agents import Agent, function_tool

added = []


@function_tool
def add(a: int, b: int) -> int:
  """The sum."""
  added.append((a, b))
  return a + b


@function_tool(failure_error_function=None)
def broken() -> str:
  """Fails."""
  raise RuntimeError("the tool is broken")


plain = Agent(name="Plain", model="m", instructions="Answer.")
calculator = Agent(name="Calculator", model="m", tools=[add, broken])


def desk() -> Agent:
  return Agent(name="Desk", model="m", handoffs=[calculator])


no_agent = "text"
