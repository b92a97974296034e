"""Files of weights that are sent to the server, and the nonce."""

import asyncio
import platform
import types

import pytest

pytest.importorskip("vllm")

import httpx
from atlas_vllm import guard, received, weights_file
from blake3 import blake3
from fastapi import FastAPI

NAME = "weights-00000007.delta.safetensors"
BODY = bytes(range(256)) * 9000  # more than a piece


def digest(body=BODY):
  return {"X-Atlas-Blake3": blake3(body).hexdigest()}


@pytest.fixture
def there(tmp_path):
  """(its root, requests to it)."""
  files, app = received.ReceivedFiles(), FastAPI()
  files.open(tmp_path, 8000)
  files.attach(app)

  def ask(method, path, **content):
    async def main():
      async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
      ) as http:
        return await http.request(method, f"/v1/atlas/{path}", **content)

    return asyncio.run(main())

  return types.SimpleNamespace(root=tmp_path, ask=ask, files=files)


def folder(there):
  return there.root / f"received-{platform.node()}-8000"


def names(there):
  return sorted(p.name for p in folder(there).iterdir())


def test_a_file_arrives_whole(there):
  answer = there.ask("PUT", f"files/{NAME}", content=BODY, headers=digest())
  assert answer.status_code == 200
  path = answer.json()["path"]
  assert weights_file.inside(there.root, path).read_bytes() == BODY
  assert (folder(there) / NAME).read_bytes() == BODY
  assert names(there) == [NAME]


WRONG = {
  "another": (BODY[:-1] + b"x", digest()),
  "half of it": (BODY[: len(BODY) // 2], digest()),
  "nothing": (b"", digest()),
  "more": (BODY + b"\0", digest()),
  "no digest": (BODY, {}),
  "no digest's form": (BODY, {"X-Atlas-Blake3": "A" * 64}),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_body_leaves_nothing_and_is_sent_again(there, case):
  body, headers = WRONG[case]
  answer = there.ask("PUT", f"files/{NAME}", content=body, headers=headers)
  assert answer.status_code == 400 and answer.json()["error"]
  assert not folder(there).exists() or names(there) == []
  again = there.ask("PUT", f"files/{NAME}", content=BODY, headers=digest())
  assert again.status_code == 200
  # A whole file stays when one of its name breaks off.
  there.ask("PUT", f"files/{NAME}", content=body, headers=digest())
  assert (folder(there) / NAME).read_bytes() == BODY


@pytest.mark.parametrize(
  "name",
  ["weights-7.safetensors", "weights-00000007.json", f".{NAME}", f"x{NAME}",
   f"..%2f{NAME}", f"%2e%2e%2f{NAME}", f"{NAME}%00", f"{NAME}%0a",
   "weights-00000007%2f.safetensors", "weights-0000000\u0667.safetensors",
   "weights-00000007" + "a" * 65 + ".safetensors", f"a/{NAME}"],
)  # fmt: skip
def test_names_come_from_the_pattern_alone(there, name):
  answer = there.ask("PUT", f"files/{name}", content=BODY, headers=digest())
  assert answer.status_code in (400, 404)
  assert list(there.root.rglob("*.safetensors")) == []


def test_a_file_has_a_bound(there, monkeypatch):
  monkeypatch.setattr(received, "MOST_BYTES", len(BODY) - 1)
  answer = there.ask("PUT", f"files/{NAME}", content=BODY, headers=digest())
  assert answer.status_code == 413 and names(there) == []


def test_a_full_disk_is_said(there, monkeypatch):
  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(received.os, "replace", full)
  answer = there.ask("PUT", f"files/{NAME}", content=BODY, headers=digest())
  assert answer.status_code == 507 and "No space left" in answer.text
  assert names(there) == []


def test_files_of_one_version_at_a_time(there):
  for name in ("weights-00000007.1-0", "weights-00000007", "weights-00000008"):
    path = f"files/{name}.safetensors"
    answer = there.ask("PUT", path, content=BODY, headers=digest())
    assert answer.status_code == 200
    assert len(names(there)) == (2 if name == "weights-00000007" else 1)
  there.files.open(there.root, 8000)  # as a server starts
  assert names(there) == []


def test_a_client_that_goes_away_leaves_nothing(there):
  sent = []

  async def main():
    parts = [{"type": "http.request", "body": BODY[:99], "more_body": True}]
    parts += [{"type": "http.disconnect"}]

    async def receive():
      return parts.pop(0)

    async def send(message):
      sent.append(message)

    app = FastAPI()
    there.files.attach(app)
    key, value = next(iter(digest().items()))
    scope = {"type": "http", "method": "PUT", "query_string": b""}
    scope |= {"path": f"/v1/atlas/files/{NAME}", "root_path": ""}
    scope["headers"] = [(key.lower().encode(), value.encode())]
    await app(scope, receive, send)

  asyncio.run(main())
  assert sent[0]["status"] == 400 and names(there) == []


def test_the_nonce_shows_whether_the_root_is_shared(there, tmp_path):
  nonce = "0123456789abcdef" * 2
  assert there.ask("GET", f"nonce/{nonce}").json() == {"digest": None}
  (there.root / f"nonce-{nonce}").write_bytes(b"drawn")
  found = there.ask("GET", f"nonce/{nonce}").json()
  assert found == {"digest": blake3(b"drawn").hexdigest()}
  (there.root / f"nonce-{nonce}").unlink()
  (there.root / f"nonce-{nonce}").symlink_to("/etc/hostname")  # outside
  assert there.ask("GET", f"nonce/{nonce}").json() == {"digest": None}
  for odd in ("..", nonce.upper(), nonce + "0", "a/../b"):
    assert there.ask("GET", f"nonce/{odd}").status_code in (400, 404), odd


def test_the_guard_lets_both_in():
  for path in (f"files/{NAME}", "nonce/00", "update", "weights"):
    assert guard._is_offered(f"/v1/atlas/{path}"), path
  for path in ("files", "files/", "files/a/b", "nonce", "filesx/a", "/files/a"):
    assert not guard._is_offered(f"/v1/atlas/{path}"), path
