"""Tables in every format, directories and data sets: rows with FILE:LINE."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from atlas_jax.config import DataConfig
from atlas_jax.data import sources, splits, tables
from atlas_jax.data.problems import DataError
from tests.hub_cache import LFS_POINTER, write_cache

BOM = b"\xef\xbb\xbf"
ONE_SPLIT = {"split_fractions": (1.0, 0.0, 0.0)}


def problems(path, source="hf", **params):
  config = DataConfig(source=source, path=str(path), params=params)
  return [(p.question, p.answer) for p in sources.read(config)]


def refusal(path, source="hf", **params) -> str:
  with pytest.raises(DataError) as error:
    problems(path, source, **params)
  assert "\n" not in str(error.value)
  return str(error.value)


def write_parquet(path, **columns):
  path.parent.mkdir(parents=True, exist_ok=True)
  parquet.write_table(pa.table(columns), path)


def test_every_format_gives_the_same_problems(tmp_path):
  rows = [("é 1 + 1?", "2"), ("a\nb", "007")]
  objects = [{"question": q, "answer": a} for q, a in rows]
  lines = "\n".join(json.dumps(o) for o in objects).encode()
  quoted = "\n".join(f'"{q}"@"{a}"' for q, a in rows)
  for name, data in {
    "a.jsonl": lines,
    "b.jsonl": BOM + lines,
    "a.json": json.dumps(objects, indent=1).encode(),
    "b.json": BOM + json.dumps(objects).encode(),
    "c.json": BOM + lines,
    **dict.fromkeys(("a.txt", "a.jl", "a.jsonl.1", "gsm8k-v1.0"), lines),
    "a.csv": f"question@answer\n{quoted}\n".replace("@", ",").encode(),
    "b.csv": BOM + f"question@answer\n{quoted}".replace("@", ",").encode(),
    "a.tsv": f"question@answer\n{quoted}".replace("@", "\t").encode(),
  }.items():
    (tmp_path / name).write_bytes(data)
    assert problems(tmp_path / name) == rows, name
    assert problems(tmp_path / name, "jsonl") == rows, name
  write_parquet(
    tmp_path / "a.parquet",
    question=[q for q, _ in rows],
    answer=[a for _, a in rows],
  )
  assert problems(tmp_path / "a.parquet") == rows


def test_fields_have_the_names_that_the_config_says(tmp_path):
  path = tmp_path / "a.parquet"
  write_parquet(path, q=["x", "y"], n=[4, 5], question=["no", "no"])
  assert problems(path, question="q", answer="n") == [("x", "4"), ("y", "5")]
  assert "none of the keys m has a value" in refusal(
    path, question="q", answer="m"
  )


def test_words_that_readers_take_for_nothing_are_answers(tmp_path):
  (tmp_path / "a.csv").write_text("question,answer\na,NA\nb,None\nc,1e400\n")
  assert [a for _, a in problems(tmp_path / "a.csv")] == ["NA", "None", "1e400"]


@pytest.mark.parametrize(
  ("name", "data", "where"),
  [
    ("a.csv", b"question,answer\na,1\nb\n", "a.csv:3: not as many"),
    ("a.csv", b"question,answer\na,1,2\n", "a.csv:2: not as many"),
    ("a.csv", b"question,answer\na,\xff\n", "a.csv:2: "),
    ("a.csv", b'question,answer\n"a,1\n', "a.csv:2: "),
    ("a.csv", b"question,answer\na,\n", "a.csv:2: 'answer' is ''"),
    ("a.json", b'[{"question": "q", "answer": "1"}, 3]', "a.json[1]: expected"),
    ("a.json", b'[{"question": "q"', "a.json: not valid JSON"),
    ("a.json", b"[" * 100_000, "a.json: not valid JSON"),
    ("a.jsonl", b'{"question": "\\ud800", "answer": "1"}', "a.jsonl:1: "),
    ("a.jsonl", b"\n" + b'{"a":' * 999, "a.jsonl:2: not valid JSON"),
    ("a.parquet", b"PAR1 no", "a.parquet: not a whole Parquet file"),
    ("a.jsonl", b'{"answer": "4", "answer": "5"}', "a.jsonl:1: not valid"),
    ("a.csv", b"question,answer,answer\na,4,5\n", "a.csv:2: 'answer' stands"),
    ("a.jsonl", LFS_POINTER.encode(), "a.jsonl is a pointer of Git LFS"),
    ("a.parquet", LFS_POINTER.encode(), "a.parquet is a pointer of Git LFS"),
    ("a.jsonl", b"\xff\xfe{\x00", "a.jsonl:1: not valid JSON"),
    ("a.csv", b"question,answer\nq\0,1\n", "a.csv:2: 'question' is 'q\\x00'"),
    ("a.jsonl.gz", b"\x1f\x8b", "a.jsonl.gz: .gz is no ending of a table; val"),
    ("a.arrow", b"ARROW1", "a.arrow: .arrow is no ending of a table; valid"),
  ],
)
def test_what_cannot_be_read_names_file_and_line(tmp_path, name, data, where):
  (tmp_path / name).write_bytes(data)
  assert f"{tmp_path}/{where}" in refusal(tmp_path / name)


def test_an_empty_cell_of_parquet_names_its_row(tmp_path):
  write_parquet(tmp_path / "a.parquet", question=["a", "b"], answer=["1", None])
  assert f"{tmp_path}/a.parquet[1]: none of the keys" in refusal(
    tmp_path / "a.parquet"
  )


def test_a_damaged_parquet_names_the_rows_before_it(tmp_path):
  path = tmp_path / "a.parquet"
  text = [f"{i} {i**9}" for i in range(5000)]
  parquet.write_table(
    pa.table({"question": text, "answer": text}), path, row_group_size=1000
  )
  data = bytearray(path.read_bytes())
  middle = len(data) * 3 // 5
  data[middle : middle + 3000] = bytes(3000)
  path.write_bytes(data)
  assert f"{path}[2999]: not a whole Parquet file of text: " in refusal(path)


def test_bytes_of_parquet_that_are_no_text_name_their_row(tmp_path):
  path = tmp_path / "a.parquet"
  write_parquet(path, question=[b"a", b"\xff"], answer=["1", "2"])
  text = refusal(path)
  assert text.startswith(
    f"{path}[1]: 'question' is b'\\xff'; it must be a text"
  )


def test_bytes_beside_the_question_are_left_alone(tmp_path):
  path = tmp_path / "a.parquet"
  write_parquet(path, question=["a"], answer=["1"], picture=[b"\xff"])
  (problem,) = sources.read(DataConfig(source="hf", path=str(path)))
  assert problem.question == "a"


def test_cells_of_parquet_that_python_cannot_hold(tmp_path):
  path = tmp_path / "a.parquet"
  write_parquet(path, question=["a"], answer=[float("nan")])
  assert f"{path}[0]: none of the keys" in refusal(path)
  days = pa.array([1 << 30], pa.date32())
  write_parquet(path, question=["a"], answer=["1"], day=days)
  assert f"{path}: not a whole Parquet file" in refusal(path)


@pytest.fixture
def data_set(tmp_path):
  """A directory as a repository of a data set is laid out."""
  path = tmp_path / "set"
  write_parquet(path / "data/train-00000-of-00002.parquet", q=["a"], a=[1])
  write_parquet(path / "data/train-00001-of-00002.parquet", q=["b"], a=[2])
  write_parquet(path / "data/test-00000-of-00001.parquet", q=["c"], a=[3])
  return path


FIELDS = {"question": "q", "answer": "a"}


def test_splits_of_a_directory(data_set):
  assert problems(data_set, **FIELDS) == [("a", "1"), ("b", "2")]
  assert problems(data_set, split="test", **FIELDS) == [("c", "3")]
  text = refusal(data_set, split="dev", **FIELDS)
  assert "has no split 'dev'; valid: train, test" in text
  config = DataConfig(
    source="hf",
    path=str(data_set),
    params={"test_split": "test", **FIELDS},
    **ONE_SPLIT,
  )
  found = splits.load(config)
  assert [p.question for p in found.test] == ["c"]
  assert len(found.train) == 2


def test_tables_that_the_card_names(data_set):
  (data_set / "other.csv").write_text("q,a\nd,4\n")
  (data_set / "README.md").write_text(
    "---\nconfigs:\n- config_name: main\n  data_files: data/train*\n"
    "- config_name: side\n  data_files: other.csv\n---\n"
  )
  assert problems(data_set, name="side", **FIELDS) == [("d", "4")]
  assert "main" in refusal(data_set, **FIELDS)
  assert problems(data_set, files="other.csv", **FIELDS) == [("d", "4")]


def test_what_lies_outside_of_a_directory_is_not_read(data_set, tmp_path):
  secret = tmp_path / "secret.csv"
  secret.write_text("q,a\nkey,1\n")
  for name in ("../secret.csv", str(secret)):
    assert "set" in refusal(data_set, files=name, **FIELDS)
  (data_set / "README.md").write_text(
    f"---\nconfigs:\n- config_name: main\n  data_files: {secret}\n---\n"
  )
  assert "lies elsewhere" in refusal(data_set, **FIELDS)


def test_no_program_of_a_directory_runs(data_set):
  (data_set / "set.py").write_text("raise SystemExit('it ran')\n")
  assert "found set.py" in refusal(data_set, **FIELDS)
  (data_set / "set.py").rename(data_set / "other.py")
  assert problems(data_set, **FIELDS) == [("a", "1"), ("b", "2")]


def test_arc_atlas_teach_by_its_name(hub_cache):
  name = "Arc-Intelligence/Arc-ATLAS-Teach-v0"
  files = ("training/rl.jsonl", "training/sft.jsonl", "README.md")
  snapshot = write_cache(hub_cache, name, "datasets", files)
  (snapshot / files[0]).write_text('{"prompt": "p", "ground_truth": 5}\n')
  row = {
    "problem_text": "p2",
    "student_approach": "I add",
    "teacher_diagnosis": "forgets the carry",
    "teacher_teaching": "carry the one",
  }
  (snapshot / files[1]).write_text(json.dumps(row) + "\n")
  config = DataConfig(
    source="arc_rl", path=name, sft_source="arc_sft", sft_path=name, **ONE_SPLIT
  )
  (problem,) = splits.load(config).train
  assert (problem.question, problem.answer) == ("p", "5")
  assert problem.where == f"{snapshot}/training/rl.jsonl:1"
  (example,) = splits.load_sft(config)
  assert example.fields["question"] == "p2"
  assert example.where == f"{snapshot}/training/sft.jsonl:1"
  assert problems(name, files="training/rl.jsonl") == [("p", "5")]


def test_the_answers_of_gsm8k_in_a_data_set(tmp_path):
  write_parquet(
    tmp_path / "set" / "main" / "test.parquet",
    question=["q"],
    answer=["so\n#### 70,000"],
  )
  found = problems(tmp_path / "set", "gsm8k", files="main/*", split="train")
  assert found == [("q", "70,000")]


def test_one_answer_in_two_spellings_is_one(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text(
    '{"question": "q", "answer": 4}\n{"question": " q ", "answer": "4.0"}\n'
    '{"question": "r", "answer": "1/2", "solution": 0.5}\n'
  )
  config = DataConfig(source="jsonl", path=str(path), **ONE_SPLIT)
  assert [p.answer for p in splits.load(config).train] == ["4", "1/2"]
  with path.open("a") as file:
    file.write('{"question": "q", "answer": 5}\n')
  with pytest.raises(DataError) as error:
    splits.load(config)
  assert str(error.value) == (
    f"{path}:4: the question 'q' has two answers: '4' ({path}:1) and '5'"
  )


def test_files_of_a_directory_that_is_not_one_table(tmp_path):
  (tmp_path / "set").mkdir()
  assert "cannot be read: datasets says" in refusal(tmp_path / "set")
  with pytest.raises(DataError, match=r"has 0 files rl\.jsonl"):
    tables.file_of(str(tmp_path / "set"), "rl.jsonl")


def test_a_list_may_begin_after_blank_lines(tmp_path):
  path = tmp_path / "a.json"
  path.write_text('\n\n [{"question": "a", "answer": "1"}]')
  (problem,) = sources.read(DataConfig(source="hf", path=str(path)))
  assert problem.where == f"{path}[0]"
