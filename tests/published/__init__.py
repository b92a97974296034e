"""Model directories as four families publish them, without the weights.

FAMILY/ has config.json, generation_config.json, tokenizer_config.json and the
chat template; its added_tokens.json says {token: [id, special]}. A small
vocabulary of bytes with those tokens, at their ids, makes the tokenizer.json.
"""

import json
import pathlib
import shutil

HERE = pathlib.Path(__file__).parent
FAMILIES = ("qwen2_5", "qwen3", "llama3", "smollm2")


def write(path: pathlib.Path, family: str, *, extra=(), **changes):
  """The directory of a family.

  Args:
    path: to make.
    family: one of FAMILIES.
    extra: more added tokens, as tokenizer.json has them (id and content).
    changes: file name without its ending -> keys that differ in it, or for
      chat_template the text.
  """
  from tokenizers import pre_tokenizers

  shutil.copytree(HERE / family, path)
  given = json.loads((path / "added_tokens.json").read_text())
  (path / "added_tokens.json").unlink()
  added = [
    {"id": i, "content": token, "special": special}
    for token, (i, special) in given.items()
  ]
  flags = dict.fromkeys(
    ("single_word", "lstrip", "rstrip", "normalized", "special"), False
  )
  added = [{**flags, **token} for token in (*added, *extra)]
  vocab = {token["content"]: token["id"] for token in added}
  free = (i for i in range(1000) if i not in vocab.values())
  for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
    vocab[byte] = next(free)
  byte_level = {
    "type": "ByteLevel",
    **dict.fromkeys(("add_prefix_space", "use_regex"), False),
    "trim_offsets": False,
  }
  tokenizer = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": sorted(added, key=lambda token: token["id"]),
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": byte_level,
    "post_processor": None,
    "decoder": byte_level,
    "model": {"type": "BPE", "vocab": vocab, "merges": []},
  }
  tokenizer |= changes.pop("tokenizer", {})
  (path / "tokenizer.json").write_text(json.dumps(tokenizer))
  if "chat_template" in changes:
    text = changes.pop("chat_template")
    (path / "chat_template.jinja").write_text(text)
  for name, keys in changes.items():
    file = path / f"{name}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))
  return path
