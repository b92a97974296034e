"""Models and agents as speakers of the teaching protocol."""

import asyncio

import pytest

from atlas_jax.episode_config import ChatTemplateKwargs
from atlas_jax.online.calls.calls import Reply
from atlas_jax.online.calls.speakers import AskerSpeaker, said_of
from atlas_jax.teaching.speakers import Ask, NoAnswer, Said
from tests.online.opened import Run
from tests.online.stub_server import StubServer

ASK = Ask("student_probe", 5, 0.5, seed=3, replicate=2)


def test_a_cut_reply_without_counts():
  class Asked:
    async def ask(self, request):
      return Reply("truncated", "add ones")

  said = asyncio.run(AskerSpeaker(Asked()).say("q", ASK))
  assert said == [Said("add ones", 2, "length")]  # a token is four bytes


def test_an_empty_reply_is_an_answer_and_a_failure_is_none():
  assert said_of(Reply("empty"), "teacher") == Said("", 1, "stop")
  for status in ("error", "timeout"):
    with pytest.raises(NoAnswer) as caught:
      said_of(Reply(status, error="HTTP 500"), "student_taught")
    assert str(caught.value) == f"taught: {status} HTTP 500"
    assert (caught.value.stage, caught.value.status) == ("taught", status)


@pytest.mark.parametrize("asked", [True, False])
def test_template_arguments_are_sent_only_where_they_are_asked_for(asked):
  given = {"enable_thinking": True} if asked else {}
  run = Run()

  async def main():
    model = run.open(kind="url", url=stub.url, extra={"top_p": 0.5})
    speaker = AskerSpeaker(model, ChatTemplateKwargs(probe=given))
    try:
      for role in ("student_probe", "student_taught", "teacher"):
        await speaker.say(f"{role}?", Ask(role, 5, 0.5))
    finally:
      await model.aclose()

  with StubServer(lambda messages: "so") as stub:
    asyncio.run(main())
  sent = [call.body.get("chat_template_kwargs") for call in stub.calls]
  assert sent == [given or None, None, None]
  assert [call.body["top_p"] for call in stub.calls] == [0.5] * 3
