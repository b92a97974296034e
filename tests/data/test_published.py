"""What four families publish works; what would train on something else not."""

import json

import numpy as np
import pytest

from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.chat_format import TAGS, ChatError, ChatFormat
from atlas_jax.model.architecture import DecoderConfig, read_config
from tests import published

CHATML = (
  "{% for m in messages %}<|im_start|>{{ m.role }}\n"
  "WRITTEN<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FULL = {"vocab_size": 273}  # as many rows as the fixture has ids
PLAIN = CHATML.replace("WRITTEN", "{{ m.content }}")


@pytest.fixture
def directory(tmp_path):
  """Writes SmolLM2's, the smallest vocabulary, with changes."""

  def write(family="smollm2", **changes):
    return published.write(tmp_path / "model", family, **changes)

  return write


def refusal(path) -> str:
  with pytest.raises(ChatError) as error:
    ChatFormat(path, "2025-03-04").facts()
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize(
  ("family", "ends", "prompt"),
  [
    (
      "qwen2_5",
      (151643, 151645),
      "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a"
      " helpful assistant.<|im_end|>\n<|im_start|>user\n12 + 3?<|im_end|>\n"
      "<|im_start|>assistant\n",
    ),
    (
      "qwen3",
      (151643, 151645),
      "<|im_start|>user\n12 + 3?<|im_end|>\n<|im_start|>assistant\n"
      "<think>\n\n</think>\n\n",
    ),
    (
      "llama3",
      (128001, 128008, 128009),
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
      "Cutting Knowledge Date: December 2023\nToday Date: 04 Mar 2025\n\n"
      "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n12 + 3?<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    (
      "smollm2",
      (2,),
      "<|im_start|>system\nYou are a helpful AI assistant named SmolLM,"
      " trained by Hugging Face<|im_end|>\n<|im_start|>user\n12 + 3?<|im_end|>"
      "\n<|im_start|>assistant\n",
    ),
  ],
)
def test_a_family_works_as_it_is_published(directory, family, ends, prompt):
  path = directory(family)
  chat = ChatTokenizer.from_dir(path, "2025-03-04")
  assert chat.stop_ids == ends
  assert chat.end_id in ends
  response = "<think>\nno\n</think> fine <teaching>carry é</teaching>"
  ids, mask = chat.training_example("12 + 3?", response)
  assert chat.decode(ids[mask == 0], special=True) == prompt
  assert chat.decode(ids[mask == 1]) == response
  assert ids[-1] == chat.end_id
  assert ids.dtype == np.int32
  config = DecoderConfig.from_hf(read_config(path))
  assert chat.vocab_size <= config.vocab_size
  assert config.tied


def test_ids_without_a_row_of_the_embedding(directory):
  path = directory(config={"vocab_size": 272})
  text = refusal(path)
  assert "has 273 ids" in text and "272 rows" in text


@pytest.mark.parametrize(
  "changes",
  [
    {"extra": [{"id": 49152, "content": "<|pad|>", "special": True}]},
    {"extra": [{"id": 49152, "content": "teach", "special": False}]},
    {"generation_config": {"eos_token_id": [2, 49152]}},
    {
      "tokenizer_config": {"pad_token": "<|new|>"},
      "config": {"vocab_size": 273},
    },
    {
      "tokenizer_config": {"eos_token": "<|new|>"},
      "config": {"vocab_size": 273},
    },
    {"config": {"vocab_size": None, "text_config": {"vocab_size": 272}}},
  ],
)
def test_ids_that_were_added_count(directory, changes):
  assert "rows (config.json: vocab_size)" in refusal(directory(**changes))


def test_more_rows_than_ids_are_usual(directory):
  assert ChatFormat(directory(), None).facts()[0] == 273 < 49152


def special(*tags, **flags):
  return [
    {"id": 1000 + i, "content": tag, "special": True, **flags}
    for i, tag in enumerate(tags)
  ]


def test_tags_that_are_special_tokens_are_text(directory):
  chat = ChatFormat(directory(extra=special(*TAGS)), None)
  text = "so <teaching>carry</teaching> <solution>4</solution><|im_end|>"
  ids = chat.encode(text)
  assert set(ids) >= {1000, 1001, 1002, 1003}
  assert chat.decode([*ids, 2], special=False) == text.replace("<|im", "< |im")
  # In a prompt as well: the template is given the text with its tags.
  prompt = chat.decode(chat.prompt_ids(text), special=True)
  assert "<teaching>carry</teaching> <solution>4</solution>" in prompt


def test_tags_that_take_their_spaces_are_read_still(directory):
  path = directory(extra=special(*TAGS, lstrip=True, rstrip=True))
  chat = ChatFormat(path, None)
  text = chat.decode(chat.encode("a <teaching> b </teaching> c"), special=False)
  assert text.replace(" ", "") == "a<teaching>b</teaching>c"


@pytest.mark.parametrize(
  ("rule", "lost"),
  [
    (
      {"type": "Replace", "pattern": {"String": "<"}, "content": ""},
      "<teaching>",
    ),
    (
      {"type": "Replace", "pattern": {"Regex": "</"}, "content": "< /"},
      "</teaching>",
    ),
    (
      {"type": "Replace", "pattern": {"String": "ti"}, "content": "TI"},
      "<solution>",
    ),
  ],
)
def test_a_tokenizer_that_changes_the_tags(directory, rule, lost):
  text = refusal(directory(tokenizer={"normalizer": rule}))
  assert f"does not give back {lost}:" in text


def test_a_tokenizer_that_lowers_case_gives_back_the_tags(directory):
  path = directory(tokenizer={"normalizer": {"type": "Lowercase"}})
  assert ChatFormat(path, None).decode([], special=False) == ""


def test_spaces_of_a_clean_up_are_left_alone(directory):
  changes = {"clean_up_tokenization_spaces": True}
  chat = ChatFormat(directory(tokenizer_config=changes), None)
  assert chat.decode(chat.encode("a , b do n't"), special=False) == (
    "a , b do n't"
  )


USER, ASSISTANT = "the user's message", "the assistant's message"


@pytest.mark.parametrize(
  ("template", "why"),
  [
    ("{% for m in messages %}{{ m.text }}{% endfor %}<|im_end|>", USER),
    (
      CHATML.replace("WRITTEN", "{{ m.content.text }}"),
      "the user's message: its chat template loses",
    ),
    (PLAIN.replace("in messages", "in messages[1:]"), USER),
    (PLAIN.replace("in messages", "in messages[-1:]"), USER),
    (CHATML.replace("WRITTEN", "{{ m.content | upper }}"), USER),
    (CHATML.replace("WRITTEN", "{{ m.content[:5] }}"), USER),
    (
      CHATML.replace("WRITTEN", "{{ m.content }} {{ m.content }}"),
      "the user's message: its chat template writes it 2 times",
    ),
    (
      PLAIN.replace("in messages", "in messages if m.role == 'user'"),
      ASSISTANT,
    ),
    (PLAIN.replace("in messages", "in messages[:1]"), ASSISTANT),
    (PLAIN.replace("in messages", "in messages | reverse"), ASSISTANT),
    # It writes "assistant" before an answer, and never for a new one.
    (PLAIN.partition("{% if add")[0], "begin it after the user's (add_gen"),
    (
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
      + PLAIN,
      ASSISTANT,
    ),
    (
      "{% if messages[0].role != 'system' %}"
      "{{ raise_exception('begin with a system message') }}{% endif %}" + PLAIN,
      "raised TemplateError: begin with a system message",
    ),
    (
      PLAIN.replace(
        "<|im_start|>{{",
        "{% if m.role == 'assistant' %}{{ raise_exception('no') }}"
        "{% endif %}<|im_start|>{{",
      ),
      "no",
    ),
    ("{{ messages[0].nothing.at_all }}", "UndefinedError"),
    ("{% for m in messages %}", "TemplateSyntaxError"),
    ("", "loses"),
  ],
)
def test_a_template_that_loses_a_message_says_which(directory, template, why):
  path = directory(chat_template=template)
  if "Error" in why or why == "no":
    with pytest.raises(ChatError) as error:
      ChatTokenizer.from_dir(path)
    text = str(error.value)
    assert text.startswith(str(path))
  else:
    text = refusal(path)
  assert why in text


@pytest.mark.parametrize(
  "template",
  [
    # Mistral and Llama 2: nothing stands before an answer.
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}"
    " [/INST]{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}",
    # The first of Llama 3: what begins an answer ends every chat.
    PLAIN.partition("{% if add")[0] + "<|im_start|>assistant\n",
    # DeepSeek-R1's: a new answer begins with thinking, an old one has none.
    PLAIN.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"),
  ],
)
def test_templates_that_begin_an_answer_in_ways_of_their_own(
  directory, template
):
  chat = ChatFormat(directory(chat_template=template), None)
  assert chat.facts()[1] == 2
  assert "12 + 3?" in chat.decode(chat.prompt_ids("12 + 3?"), special=True)


def test_a_long_question_that_a_template_cuts_is_named(directory):
  cut = CHATML.replace("WRITTEN", "{{ m.content[:50] }}")
  chat = ChatFormat(directory(chat_template=cut), None)
  assert chat.prompt_ids(" short ")
  with pytest.raises(ChatError, match=r"changes or cuts 'xxx"):
    chat.prompt_ids("x" * 51)


def test_a_template_of_parts_is_given_parts(directory):
  parts = "{% for p in m.content %}{{ p.text }}{% endfor %}"
  chat = ChatFormat(
    directory(chat_template=CHATML.replace("WRITTEN", parts)), None
  )
  ids = chat.prompt_ids("12 + 3?")
  assert chat.decode(ids, special=True) == (
    "<|im_start|>user\n12 + 3?<|im_end|>\n<|im_start|>assistant\n"
  )
  assert chat.facts()[1] == 2


def test_named_templates(directory):
  path = directory()
  (path / "chat_template.jinja").unlink()
  config = path / "tokenizer_config.json"

  def named(*names):
    templates = [{"name": name, "template": PLAIN} for name in names]
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "chat_template": templates}))

  named("tool_use", "default")
  assert ChatFormat(path, None).prompt_ids("x")
  named("tool_use", "rag")
  assert "named default, only tool_use, rag" in refusal(path)


def test_the_day_of_a_template_is_pinned(directory):
  clock = PLAIN + "{{ strftime_now('%d %B %Y %H:%M') }}"
  path = directory(chat_template=clock)
  chat = ChatTokenizer.from_dir(path, "2025-03-04")
  text = chat.decode(chat.prompt_ids("x"), special=True)
  assert text.endswith("04 March 2025 00:00")


@pytest.mark.parametrize("name", ["config", "generation_config"])
@pytest.mark.parametrize("eos", ["2", 2.0, [["2"]], -1, True])
def test_an_end_that_is_no_token(directory, name, eos):
  text = refusal(directory(**{name: {"eos_token_id": eos}}))
  assert f"{name}.json: eos_token_id must be token ids, got" in text


def test_the_ends_of_the_config_count_where_nothing_else_says_them(directory):
  path = directory(config={"eos_token_id": [7, 2]})
  assert ChatFormat(path, None).facts()[3] == [2]
  (path / "generation_config.json").unlink()
  assert ChatFormat(path, None).facts()[3] == [2, 7]
