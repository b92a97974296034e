"""Processes and devices as SLURM and TPU pods say them, by stubbed names."""

import types

import pytest
from jax._src import clusters, distributed

from launchers import hosts
from tests import forked

SLURM = {
  "SLURM_NTASKS": "2",
  "SLURM_STEP_NUM_NODES": "2",
  "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
}


@pytest.fixture
def environment(monkeypatch):
  def put(**values):
    names = (*hosts._TASKS, *SLURM, "TPU_WORKER_HOSTNAMES")
    for name in (*names, "MEGASCALE_NUM_SLICES", "JAX_LOCAL_DEVICE_IDS"):
      monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
      monkeypatch.setenv(name, value)

  return put


@pytest.mark.parametrize(
  ("changes", "devices"),
  [
    ({}, []),  # one task a node: all of its devices
    ({"SLURM_NTASKS": "16"}, None),  # one a GPU: JAX takes one for each
    ({"SLURM_NTASKS": "4", "CUDA_VISIBLE_DEVICES": "0"}, None),
    ({"JAX_LOCAL_DEVICE_IDS": "0,1"}, None),  # the user's word
  ],
)
def test_devices_of_a_task_of_slurm(environment, changes, devices):
  environment(**SLURM | changes)
  assert hosts._local_devices() == devices


def test_devices_that_slurm_would_leave_out(environment):
  environment(**SLURM | {"SLURM_NTASKS": "4"})
  with pytest.raises(ValueError, match=r"4 tasks on 2 nodes, .* of the 8 GPUs"):
    hosts._local_devices()


def test_without_slurm_jax_decides(environment):
  environment()
  assert hosts._local_devices() is None


@pytest.mark.parametrize(
  ("values", "said"),
  [
    ({}, {}),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, {}),
    ({"SLURM_STEP_NUM_TASKS": "4"}, {"SLURM_STEP_NUM_TASKS": "4"}),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, {"TPU_WORKER_HOSTNAMES": "2"}),
    (
      {"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "3"},
      {"TPU_WORKER_HOSTNAMES": "6"},
    ),
  ],
)
def test_processes_that_the_cluster_started(environment, values, said):
  environment(**values)
  assert hosts._started() == said


STEP = {
  "SLURM_JOB_ID": "1234",
  "SLURM_STEP_NODELIST": "gpu-a[12-13]",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "0",
}
POD = {"TPU_WORKER_HOSTNAMES": "localhost,b", "TPU_WORKER_ID": "1"}
SLICES = {
  "MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080",
  "MEGASCALE_NUM_SLICES": "2",
  "MEGASCALE_SLICE_ID": "1",
}


@pytest.mark.parametrize(
  ("values", "found"),
  [
    (SLURM | STEP, ("gpu-a12:62674", 2, 1)),
    # What the script of a job says, where JAX misreads the list.
    (
      {
        **(SLURM | STEP),
        "SLURM_STEP_NODELIST": "rack[1-2]n[01-04]",
        "JAX_COORDINATOR_ADDRESS": "rack1n01:62674",
      },
      ("rack1n01:62674", 2, 1),
    ),
    (POD | {"MEGASCALE_NUM_SLICES": ""}, ("localhost:8482", 2, 1)),
    (POD | SLICES, ("localhost:8482", 4, 3)),
    (POD | SLICES | {"JAX_COORDINATOR_PORT": "8476"}, ("localhost:8476", 4, 3)),
  ],
  ids=["slurm", "slurm_odd_list", "pod", "slices", "port"],
)
def test_auto_finds_what_the_cluster_started(
  environment, monkeypatch, values, found
):
  environment(**values)
  tpu = "TPU_WORKER_ID" in values
  monkeypatch.setattr(
    clusters.cloud_tpu_cluster, "running_in_cloud_tpu_vm", tpu
  )
  monkeypatch.setattr(clusters.cluster, "running_in_cloud_tpu_vm", tpu)
  for key in SLICES.keys() - values.keys():
    monkeypatch.setenv(key, "")  # else the machine's metadata are asked
  fake = types.SimpleNamespace(
    get_distributed_runtime_client=lambda *_, **__: types.SimpleNamespace(
      connect=lambda: None
    )
  )
  monkeypatch.setattr(distributed, "_jax", fake)
  state = distributed.State()
  monkeypatch.setattr(state, "initialize_preemption_sync_manager", lambda: None)
  set_ = []
  monkeypatch.setattr(distributed.config, "update", lambda *x: set_.append(x))
  state.initialize(local_device_ids=hosts._local_devices())
  address = state.coordinator_address
  assert (address, state.num_processes, state.process_id) == found
  assert not set_  # all devices that are visible
  started = hosts._started()
  assert {*started.values()} <= {str(state.num_processes)}
  assert started or not tpu


def test_another_number_of_processes_is_refused(environment, tmp_path):
  environment(TPU_WORKER_HOSTNAMES="a,b,c,d")
  done = forked.run(
    *("launchers.train", f"--workdir={tmp_path}/run"),
    *("--config=configs/quickstart.py", "--coordinator=127.0.0.1:29417"),
    *("--num_processes=1", "--process_id=0"),
  )
  assert done.returncode == 1
  assert "1 processes, but TPU_WORKER_HOSTNAMES=4" in done.stderr
