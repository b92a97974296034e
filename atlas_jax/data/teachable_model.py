"""Makes the model directory of the built-in task, all but the weights.

A byte-level BPE trained on the task's own text, in Hugging Face format with a
chat template, and the config.json of a tiny Llama: what a model server needs
to serve it like any model. The weights come from training.
"""

import json
import pathlib
import re
from collections.abc import Iterable

VOCAB_SIZE = 512
# As Llama has it. vLLM's attention on CPUs takes no head_dim below 32.
ARCHITECTURE = {
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "hidden_size": 64,
  "intermediate_size": 256,
  "num_hidden_layers": 3,
  "num_attention_heads": 2,
  "num_key_value_heads": 2,
  "head_dim": 32,
  "hidden_act": "silu",
  "initializer_range": 0.05,
  "max_position_embeddings": 512,
  "rms_norm_eps": 1e-5,
  "rope_theta": 10_000.0,
  "tie_word_embeddings": True,
}
# Plain text to every decoder: they must survive `skip_special_tokens`.
TAGS = ("<teaching>", "</teaching>", "<solution>", "</solution>")
SPECIALS = ("<pad>", "<bos>", "<eos>", "<user>", "<assistant>")
PAD, BOS, EOS, USER, ASSISTANT = SPECIALS
# A digit is a piece of its own; a space belongs to the word after it, or
# before a digit or a tag to what stands before: no token is spent on spaces.
PIECES = r" ?[A-Za-z]+(?: (?=\d|$))?|\d| ?[^A-Za-z\d\s]+(?: (?=\d|$))?|\s+"
CHAT_TEMPLATE = (
  "{{ bos_token }}{% for message in messages %}"
  "{% if message.role == 'assistant' %}<assistant>{{ message.content }}"
  "{{ eos_token }}"
  "{% elif message.role == 'user' %}<user>{{ message.content }}"
  "{% else %}{{ raise_exception('roles are user and assistant') }}{% endif %}"
  "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_scratch_model_dir(
  path: str | pathlib.Path, texts: Iterable[str]
) -> None:
  """Everything of a model directory but the weights.

  The tokenizer is trained on `texts`; config.json (ARCHITECTURE) and
  generation_config.json fit it. config.json comes last: with it the directory
  is whole.
  """
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  tokenizer = _trained_tokenizer(texts)
  tokenizer.save_pretrained(str(path))
  ids = {
    "bos_token_id": tokenizer.bos_token_id,
    "eos_token_id": tokenizer.eos_token_id,
    "pad_token_id": tokenizer.pad_token_id,
  }
  config = {**ARCHITECTURE, "vocab_size": VOCAB_SIZE, **ids}
  for name, value in (("generation_config", ids), ("config", config)):
    text = json.dumps(value, indent=2) + "\n"
    (path / f"{name}.json").write_text(text, encoding="utf-8")


def _trained_tokenizer(texts: Iterable[str]):
  """A tokenizer of `texts`, of at most VOCAB_SIZE tokens.

  Any text can be encoded (bytes are the alphabet); each digit is one token.
  """
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, trainers
  from transformers import PreTrainedTokenizerFast

  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(PIECES), behavior="isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=VOCAB_SIZE - len(TAGS),
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=list(SPECIALS),
    show_progress=False,
  )
  without_tags = (re.sub("|".join(TAGS), " ", text) for text in texts)
  tokenizer.train_from_iterator(without_tags, trainer)
  tokenizer.add_tokens(
    [tokenizers.AddedToken(tag, normalized=False) for tag in TAGS]
  )
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token=PAD,
    bos_token=BOS,
    eos_token=EOS,
    additional_special_tokens=[USER, ASSISTANT],
    chat_template=CHAT_TEMPLATE,
    clean_up_tokenization_spaces=False,
  )
