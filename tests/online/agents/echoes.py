"""Agents that answer with what reached them: 'sha256 length'.

Run as a command it reads standard input, or the file or text it is given:
  python echoes.py | python echoes.py --file PATH | python echoes.py --text TEXT
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import time


def of(text: str) -> str:
  content = text.encode()
  return f"{hashlib.sha256(content).hexdigest()} {len(content)}"


def same(text: str) -> str:
  return text


async def of_async(text: str) -> str:
  return of(text)


def noisy(text: str) -> str:
  """Writes to every standard stream on the way."""
  print("noise" * 1000, flush=True)
  os.write(1, b"\x00\x00\x00\x00\x00\x00\x00\x05noise")
  sys.stderr.write("more noise\n")
  assert sys.stdin.read() == ""
  return of(text)


def sleeps(text: str) -> str:
  """With a child of its own; both note their pid in the file named `text`."""
  child = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(60)"]
  )
  pathlib.Path(text).write_text(f"{os.getpid()} {child.pid}")
  time.sleep(60)


def dies(text: str) -> str:
  os.kill(os.getpid(), 9) if text == "die" else None
  return of(text)


def pid(text: str) -> str:
  return str(os.getpid())


def raises(text: str) -> str:
  raise {"key": KeyError, "exit": SystemExit, "down": ConnectionError}[text](
    "Error: 401 sk-environment-secret"
  )


def counts(text: str) -> int:
  return len(text)


if __name__ == "__main__":
  match sys.argv[1:]:
    case ["--file", path]:
      print(of(pathlib.Path(path).read_bytes().decode()))
    case ["--text", text]:
      print(of(text))
    case ["--sleep", path]:
      sleeps(path)
    case _:
      print(of(sys.stdin.buffer.read().decode()))
