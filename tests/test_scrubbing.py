"""What keys look like in texts, and what is left of them."""

import base64
import html
import json
import random
import string
import time
import urllib.parse

import pytest

from atlas_jax.scrubbing import answer_scrubber, error_line, scrubber

KEY = 'sk-pr"oj/a+b=c é%41&x;z0123'
QUOTE = urllib.parse.quote
PLAIN = {
  "plain": KEY,
  "json": json.dumps(KEY),
  "json with \\/": json.dumps(KEY).replace("/", "\\/"),
  "json in json": json.dumps(json.dumps(json.dumps(KEY))),
  "every character as \\u": "".join(f"\\u{ord(c):04x}" for c in KEY),
  "quoted": QUOTE(KEY),
  "quoted whole": QUOTE(KEY, safe=""),
  "quoted in lower case": QUOTE(KEY).replace("%2B", "%2b"),
  "quoted twice": QUOTE(QUOTE(KEY)),
  "quoted plus": urllib.parse.quote_plus(KEY),
  "every byte as %": "".join(f"%{b:02X}" for b in KEY.encode()),
  "repr": repr(KEY),
  "repr of bytes": repr(KEY.encode()),
  "html": html.escape(KEY),
  "every character as &#": "".join(f"&#{ord(c)};" for c in KEY),
  "every character as &#x": "".join(f"&#x{ord(c):X};" for c in KEY),
  "every character as &# without ;": "".join(f"&#{ord(c)}" for c in KEY),
  "every character as %u": "".join(f"%u{ord(c):04x}" for c in KEY),
  "every character as \\U": "".join(f"\\U{ord(c):08x}" for c in KEY),
  "every character as u{}": "".join(f"\\u{{{ord(c):x}}}" for c in KEY),
  "every byte in octal": "".join(f"\\{b:03o}" for b in KEY.encode()),
  "every byte as =": "".join(f"={b:02X}" for b in KEY.encode()),
  "hexadecimal": KEY.encode().hex(),
  "HEXADECIMAL": KEY.encode().hex().upper(),
  "a line in two": f"{KEY[:11]}\r\n    {KEY[11:]}",
}


@pytest.mark.parametrize("make", [scrubber, answer_scrubber])
@pytest.mark.parametrize("form", PLAIN)
def test_a_key_in_every_form(make, form):
  scrub = make({"GITHUB_PAT": KEY})
  text = f"before {PLAIN[form]} after"
  out = scrub(text)
  assert out.startswith("before ") and out.endswith(" after")
  # What may be left are marks around it.
  assert "***" in out and len(out) < len("before *** after") + 20
  assert not any(part in out for part in ("sk-pr", "oj/", "z0123"))
  assert scrub("before after") == "before after"


ENCODERS = (base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes)


@pytest.mark.parametrize("make", [scrubber, answer_scrubber])
@pytest.mark.parametrize("encode", ENCODERS)
def test_base64_within_longer_base64(make, encode):
  key = "sk-~~??>>0123456789abcdef"
  scrub = make({}, key)
  for before in ("", "u", "us", "user:", "a longer user:" * 5):
    for after in ("", "!", "!!", "more" * 30):
      text = encode((before + key + after).encode()).decode()
      out = scrub(f"'{text}'")
      left = "".join(out.split()).replace("***", "")
      assert "***" in out
      # Of 25 characters of the key at most two are to be seen, in halves.
      spare = len("".join(text.split())) + 2 - len(left)
      assert spare >= len(key) * 8 // 6 - 2, (before, after, out)
      json.loads(json.dumps(out))


def test_what_is_in_json_stays_json():
  scrub = scrubber({}, 'sk-"0123456789\n')
  value = {"error": 'wrong: sk-"0123456789\n.', "b": "\nc2stIjAxMjM0NTY3ODk"}
  out = json.loads(scrub(json.dumps(value, indent=1)))
  assert out["error"] == "wrong: ***." and set(out) == {"error", "b"}


def test_a_part_of_a_key_is_none():
  """Errors are hidden before they are cut, so that no half comes about."""
  environ = {"KEYCLOAK_URL": "http://localhost:8080/auth/hidden-in-a-path"}
  for make in (scrubber, answer_scrubber):
    scrub = make(environ)
    assert scrub("http://localhost:8080/v1") == "http://localhost:8080/v1"
    assert scrub(environ["KEYCLOAK_URL"]) == "***"


def test_a_key_in_utf_16():
  key = "sk-0123456789"
  scrub = answer_scrubber({}, key)
  text = f"a {key} b".encode("utf-16-le").decode("latin-1")
  assert scrub(text).replace("\0", "") == "a *** b"
  # And in the JSON of that.
  out = json.loads(scrub(json.dumps({"said": text})))["said"]
  assert out.replace("\0", "") == "a *** b"


def test_a_key_where_two_windows_meet():
  key = "sk-0123456789"
  scrub = answer_scrubber({}, key)
  hidden = "".join(f"%25{ord(c):02x}" for c in key)
  for at in range((1 << 17) - len(hidden) - 1, (1 << 17) + 2, 3):
    assert scrub("%41" * (at // 3) + hidden + "%") == "%41" * (at // 3) + "***%"


SECRET = "q8Zt-4kPw2-long-enough"


@pytest.mark.parametrize(
  "name",
  [
    *("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN"),
    *("DB_PASSWORD", "PGPASSWORD", "PASSWD", "DB_PASS", "MYSQL_PWD"),
    *("GOOGLE_CREDENTIALS", "GITHUB_PAT", "PAT", "NPM_CONFIG__AUTH", "AUTH"),
    *("AUTHORIZATION", "DOCKER_AUTH_CONFIG", "A_JWT", "JWT_VALUE", "BEARER"),
    *("GPG_PASSPHRASE", "SESSION_COOKIE", "SLACK_WEBHOOK_URL"),
    *("AZURE_CONNECTION_STRING", "my_api_key", "github_pat", "DB_CREDS"),
    *("GITHUB_OAUTH", "STORAGE_SAS", "PASSCODE", "WALLET_MNEMONIC"),
  ],
)
def test_names_that_sound_secret(name):
  assert scrubber({name: SECRET})(f"<{SECRET}>") == "<***>"
  assert answer_scrubber({name: SECRET})(f"<{SECRET}>") == "<***>"


def test_what_is_no_secret_stays(tmp_path):
  environ = {
    "PATH": "/usr/local/bin:/usr/bin",
    "PWD": "/srv/project",
    "OLDPWD": "/srv/project/other",
    "INIT_PWD": str(tmp_path),
    "HOME": "/home/somebody",
    "SSH_AUTH_SOCK": "/tmp/ssh-XXXX/agent.1",
    "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path),
    "TOKENIZERS_PARALLELISM": "falsefalse",
    "API_KEY_REQUIRED": "true",
    "COMPASS": "north-north-east",
    "LANG": "en_US.UTF-8",
    "BASE_URL": "https://api.example.com/v1?model=long-name-of-a-model",
    "REMOTE": "ssh://git@example.com/repository",
  }
  text = " ".join(environ.values())
  assert scrubber(environ)(text) == text


@pytest.mark.parametrize(
  "name, value, hidden",
  [
    ("DATABASE_URL", "postgres://app:s3cret-pw@db/x", "s3cret-pw"),
    ("REDIS", "redis://:p%40ss-w0rd@h:1/0", "p%40ss-w0rd"),
    ("REDIS", "redis://:p%40ss-w0rd@h:1/0", "p@ss-w0rd"),
    ("HTTPS_PROXY", "http://u:s3cret-pw@proxy:3128", "s3cret-pw"),
    ("SENTRY", "https://0123456789abcdef01@o1.ingest/2", "0123456789abcdef01"),
    ("ENDPOINT", "https://h/x?a=1&api_key=s3cret-pw&b=2", "s3cret-pw"),
    ("STORE", "AccountName=n;AccountKey=s3cretpw==;E=x", "s3cretpw=="),
    ("AUTH", "Basic bWU6czNjcmV0LXB3", "bWU6czNjcmV0LXB3"),
    ("AUTH", "Bearer s3cret-pw", "s3cret-pw"),
    ("ACCOUNT", '{"id": 1, "private_key": "s3cret-pw"}', "s3cret-pw"),
    ("HEADERS", "x-team=a,api-key=s3cret-pw", "s3cret-pw"),
    ("HEADER", "Authorization: Bearer s3cret-pw", "s3cret-pw"),
    ("OPTIONS", "model: m\napi_key: s3cret-pw", "s3cret-pw"),
    ("ENDPOINT", "https://h/?token=s3cret-pw", "s3cret-pw"),
    ("DSN", "host=h password=Bs3cretpw dbname=x", "Bs3cretpw"),
    ("OPTIONS", "api_key: Bs3cretpw\nmodel: m", "Bs3cretpw"),
    ("HEADER", "Authorization: Token s3cret-pw", "s3cret-pw"),
    ("STORE", "Password=s3,cret-password;X=1", "s3,cret-password"),
    ("STORE", "password=s3'cret-password", "s3'cret-password"),
    ("STORE", "password=//s3cret-pw", "//s3cret-pw"),
    ("ACCOUNT", '{"id":1,"password":"s3,cret-pw","b":1}', "s3,cret-pw"),
  ],
)
def test_a_secret_in_a_value(name, value, hidden):
  environ = {name: value, "BROKEN": "http://["}
  for make in (scrubber, answer_scrubber):
    assert make(environ)(f"user me got <{hidden}>") == "user me got <***>"
  assert hidden not in scrubber(environ)(value)


@pytest.mark.parametrize("key", ["12ab/cdefghij", "ABcd+efghijkl"])
def test_a_key_of_an_address_that_begins_as_an_escape(key):
  scrub = answer_scrubber({"API_KEY": key})
  for value in (QUOTE(key, safe=""), QUOTE(QUOTE(key, safe=""))):
    assert scrub(f"GET /?key={value}&a=1") == "GET /?key***&a=1"


def test_a_long_value_of_a_variable_is_quick():
  begin = time.process_time()
  answer_scrubber({"X": "a" * 50_000, "Y": "a=b," * 20_000})
  # 0.05 s here; a search at each place took 30 s.
  assert time.process_time() - begin < 2


def test_a_key_of_ones_own_may_be_short_but_not_in_answers():
  assert scrubber({}, "k3y")("no k3y") == "no ***"
  assert answer_scrubber({}, "k3y")("k3y") == "k3y"
  assert scrubber({}, None, "", " ")("a b") == "a b"


def test_errors_are_hidden_first_and_cut_afterwards():
  key = "sk-" + "0123456789" * 4
  scrub = scrubber({}, key)
  for before in range(540, 601):
    out = error_line(scrub, "x" * before + key + "y")
    assert out in ("x" * before + "***y", ("x" * before + "***")[:600])
  assert error_line(scrub, f"a\n\n  b\t{key}\ud800") == "a b ***\\ud800"
  # Nor does a text of keys alone bring a half one to its end.
  assert set(error_line(scrub, key * 50_000)) == {"*"}


def test_many_keys_and_long_texts_are_quick():
  draw = random.Random(0)
  letters = string.ascii_letters + string.digits
  environ = {
    f"A{i}_TOKEN": "sk-proj-" + "".join(draw.choices(letters, k=40))
    for i in range(500)
  }
  words = ["".join(draw.choices(letters, k=k % 9 + 1)) for k in range(5000)]
  text = " ".join(draw.choices(words, k=200_000))[: 1 << 20]
  scrub = scrubber(environ)
  begin = time.process_time()
  assert scrub(text) == text
  # 0.05 s here; each of 500 keys in turn would take 10 s.
  assert time.process_time() - begin < 1.5


@pytest.mark.parametrize("hide", ["%{:02x}", "\\x{:02X}", "\\u{:04x}", "&#{};"])
def test_a_letter_that_is_escaped_hides_no_key(hide):
  """The quick look that most texts end at does not pass these over."""
  key = "sk-Az09azAZ-pqrs"
  scrub = answer_scrubber({}, key)
  for at, letter in enumerate(key):
    text = key[:at] + hide.format(ord(letter)) + key[at + 1 :]
    assert scrub(f'{{"sent": "{text}"}}') == '{"sent": "***"}'
  every = "".join(hide.format(ord(letter)) for letter in key)
  assert scrub(f"a {every} b") == "a *** b"
  twice = every.replace("\\", "&bsol;").replace("%", "%25")
  assert scrub(f"a {twice} b") == "a *** b"


def test_a_key_that_is_broken_in_two_lines_is_found():
  key = "abcdefghijklmnop"
  scrub = answer_scrubber({}, key)
  for at in range(1, len(key)):
    assert scrub(f"a {key[:at]}\n  {key[at:]} b") == "a *** b"
