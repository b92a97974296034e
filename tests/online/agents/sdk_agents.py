"""Agents of the OpenAI Agents SDK, loaded by the tests as a user's file."""

import asyncio

from agents import Agent, function_tool, handoff
from agents.mcp import MCPServer
from mcp.types import CallToolResult, TextContent, Tool

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


class Notes(MCPServer):
  """A server that keeps what it is given while it is connected."""

  def __init__(self):
    super().__init__()
    self.kept = None

  @property
  def name(self):
    return "notes"

  async def connect(self):
    assert self.kept is None, "connected already"
    self.kept = []

  async def cleanup(self):
    self.kept = None

  async def list_tools(self, run_context=None, agent=None):
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    return [Tool(name="keep", inputSchema=schema)]

  async def call_tool(self, tool_name, arguments, meta=None):
    self.kept.append(arguments["word"])
    text = f"kept {','.join(self.kept)}"
    return CallToolResult(content=[TextContent(type="text", text=text)])

  async def list_prompts(self):
    raise NotImplementedError

  async def get_prompt(self, name, arguments=None):
    raise NotImplementedError


class Broken(Notes):
  async def connect(self):
    raise ConnectionError("no such server")


noting = Agent(name="Noting", model="m", mcp_servers=[Notes()])
front = Agent(name="Front", model="m", handoffs=[noting])
fronting = Agent(name="Fronting", model="m", handoffs=[handoff(noting)])
unconnected = Agent(name="Unconnected", model="m", mcp_servers=[Broken()])


def noting_anew() -> Agent:
  return Agent(name="Noting", model="m", mcp_servers=[Notes()])


def noting_again() -> Agent:
  return noting


async def noting_later() -> Agent:
  await asyncio.sleep(0)
  return noting_anew()


class NotingObject:
  async def __call__(self) -> Agent:
    return noting_anew()


noting_object = NotingObject()


async def no_agent_later():
  return "text"


no_agent = "text"
