"""What `launchers.train --dry_run` prints; nothing is started."""

from atlas_jax.config import resolve
from atlas_jax.preflight import dry_run
from configs import teacher


def test_a_shared_card_is_shown_with_every_share(tmp_path):
  config = resolve(teacher.get_config("qwen3_8b_lora_1gpu"))
  first, trainer, of_teacher, of_student = dry_run.lines(
    config, tmp_path / "run", None
  )
  assert first.startswith("GPUs: trainer on 0 with 0.45 of it; teacher server")
  assert trainer == (
    "trainer: CUDA_VISIBLE_DEVICES=0 XLA_PYTHON_CLIENT_MEM_FRACTION=0.45"
  )
  for line, role, share in (
    (of_teacher, "teacher", "0.29"),
    (of_student, "student", "0.19"),
  ):
    assert line.startswith(f"{role} server: ")
    assert "CUDA_VISIBLE_DEVICES=0 " in line
    assert f"--gpu-memory-utilization {share}" in line
    assert "VLLM_API_KEY" not in line
  assert str(tmp_path / "run" / "weights") in of_teacher
  assert "atlas_weights" not in of_student
  assert not (tmp_path / "run").exists()


def test_a_server_elsewhere_is_its_address(tmp_path):
  tree = teacher.get_config("qwen3_8b_lora_1gpu")
  tree.serving.student.url = "http://10.0.0.2:8000"
  *_, last = dry_run.lines(resolve(tree), tmp_path / "run", None)
  assert last == "student server: http://10.0.0.2:8000"
