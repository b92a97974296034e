"""What a user gets wrong: one line that says what and where, exit status 1."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from safetensors.numpy import load_file, save_file

from tests import forked

GOOD = '{"question": "What is 1+1?", "answer": "2"}\n'


@pytest.fixture
def model(road_model):
  return road_model


@pytest.fixture
def train(model, tmp_path):
  def run(*flags, **config):
    settings = {
      "phases": "('grpo',)",
      "data.params": {"count": 60},
      "data.sft_params": {"count": 60},
      "teacher.path": model,
      "student.path": model,
      **{key.replace("__", "."): value for key, value in config.items()},
    }
    if "data.source" in settings:  # a file takes no count
      del settings["data.params"]
    return forked.run(
      "launchers.train",
      "--config=configs/quickstart.py",
      f"--workdir={tmp_path / 'run'}",
      *(f"--config.{key}={value}" for key, value in settings.items()),
      *flags,
    )

  return run


def only_error(done) -> str:
  """The one line of the error."""
  assert done.returncode == 1, done.stderr[-3000:]
  assert "Traceback" not in done.stderr
  (line,) = re.findall(r"^error: .*", done.stderr, re.MULTILINE)
  return line


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ('{"question": "What is 2+2?", "answer": 4', r"p\.jsonl:2: not valid JSON"),
    (
      '{"question": "What is 2+2?"}',
      r"p\.jsonl:2: none of the keys ground_truth, answer, solution has a value"
      r"; the line has question",
    ),
  ],
)
def test_a_bad_line_of_a_problem_file(line, message, train, tmp_path):
  path = tmp_path / "p.jsonl"
  path.write_text(GOOD + line + "\n")
  done = train(data__source="jsonl", data__path=path)
  assert re.search(message, only_error(done))
  # Nothing was started, nothing is left that a second try would trip over.
  assert not (tmp_path / "run" / "config.json").exists()


def test_an_unknown_phase(train):
  line = only_error(train(phases="('sft','grop')"))
  assert line == (
    "error: config.phases='grop' is not one of sft, grpo, evaluate, export"
  )


def test_an_unknown_key_of_the_config(train):
  done = train("--config.grpo.grop_size=3")
  assert done.returncode == 1
  assert "grop_size" in done.stderr and "group_size" in done.stderr


def test_a_value_that_is_not_valid(train):
  line = only_error(train(grpo__loss_type="ppo"))
  assert "config.grpo.loss_type='ppo' is not one of" in line


def test_a_template_without_its_field(train):
  line = only_error(train(prompts__teacher="Teach: {question}"))
  assert "config.prompts.teacher: {probe} is missing" in line


def test_a_model_that_lacks_a_tensor(train, model, tmp_path):
  shutil.copytree(model, tmp_path / "cut")
  file = tmp_path / "cut" / "model.safetensors"
  tensors = load_file(file)
  del tensors["model.layers.1.mlp.up_proj.weight"]
  save_file(tensors, file, metadata={"format": "pt"})
  line = only_error(train(teacher__path=tmp_path / "cut"))
  assert f"{tmp_path / 'cut'}: missing tensor model.layers.1.mlp.up" in line


def test_a_model_directory_that_is_not_there(train, tmp_path):
  line = only_error(train(teacher__path=tmp_path / "none"))
  assert str(tmp_path / "none") in line


def test_a_model_that_the_decoder_cannot_follow(train, model, tmp_path):
  shutil.copytree(model, tmp_path / "other")
  path = tmp_path / "other" / "config.json"
  config = json.loads(path.read_text())
  path.write_text(json.dumps({**config, "model_type": "gemma"}))
  line = only_error(train(teacher__path=tmp_path / "other"))
  assert "model_type" in line and "llama, qwen2, qwen3" in line


def test_a_student_that_is_not_there_is_seen_before_any_training(
  train, tmp_path
):
  line = only_error(
    train(phases="('sft','evaluate')", student__path=tmp_path / "none")
  )
  assert f"{tmp_path / 'none'} is neither a directory nor" in line
  assert not (tmp_path / "run" / "checkpoints").exists()


def test_nothing_to_evaluate_on_is_seen_before_any_training(train, tmp_path):
  (tmp_path / "p.jsonl").write_text(GOOD)
  done = train(
    phases="('sft','evaluate')",
    data__source="jsonl",
    data__path=tmp_path / "p.jsonl",
    data__split_fractions="(1.0,0.0,0.0)",
  )
  assert "the test split of config.data.source=jsonl is empty" in only_error(
    done
  )


def test_a_port_in_use(train):
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    s.listen()
    port = s.getsockname()[1]
    line = only_error(train(serving__student__port=port))
  assert f"port {port} for the student server cannot be used" in line
  assert "config.serving.student.port" in line


def test_a_server_that_never_becomes_healthy(train):
  done = train(serving__start_timeout_s=0.5)
  line = only_error(done)
  assert re.search(r"the \w+ server at .* was not healthy within 0\.5 s", line)


def test_a_config_file_that_is_not_there(repo_root, tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "launchers.train"),
      *("--config=configs/none.py", f"--workdir={tmp_path}"),
    ],
    cwd=repo_root,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode != 0
  assert "configs/none.py" in done.stderr


def test_a_pipe_a_bomb_and_a_link_are_one_line_each(train, model, tmp_path):
  os.mkfifo(tmp_path / "p.jsonl")
  data = {"data__source": "jsonl", "data__path": tmp_path / "p.jsonl"}
  assert "p.jsonl cannot be read: a pipe" in only_error(train(**data))
  (tmp_path / "outside").write_text("mine")
  (tmp_path / "run").mkdir(exist_ok=True)
  (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "outside")
  line = only_error(train())
  assert "metrics.jsonl is a link to" in line and "outside" in line
  (tmp_path / "run" / "metrics.jsonl").unlink()
  bad = tmp_path / "bad"
  shutil.copytree(model, bad)
  (bad / "chat_template.jinja").write_text("{{ '\\x1b[2J' * 9000000 }}")
  line = only_error(train(teacher__path=bad))
  assert line.startswith(f"error: {bad}: the chat template makes")
  (bad / "chat_template.jinja").write_text("{{ raise_exception('\\x1b[2J') }}")
  assert r"TemplateError: \x1b[2J" in only_error(train(teacher__path=bad))
  assert (tmp_path / "outside").read_text() == "mine"


@pytest.mark.parametrize(
  ("flag", "what"),
  [
    ("--rows=0", "--rows=0"),
    ("--json=/no/such.json", "/no/such.json: No"),
    ("--config.phases=('evaluate',)", "neither sft nor grpo"),
  ],
)
def test_compile_refuses_at_once(flag, what, model, tmp_path):
  done = forked.run(
    *("launchers.compile", "--config=configs/quickstart.py"),
    *("--target=h100x1", f"--config.teacher.path={model}"),
    *(f"--compilers={tmp_path}", flag),
  )
  assert what in only_error(done)
