"""What the doctor says of machines: of this one by looking, of others by what they would tell."""

from __future__ import annotations

import json
import math
import sys
import sysconfig
from pathlib import Path

import pytest
from huggingface_hub import constants

from criticflow.config import Model, Resources, Run, Source, Task
from criticflow.doctor import cuda, finding, free_gpus, hub, machine, places, slurm, tools
from criticflow.errors import UserError
from criticflow.runtime.gpus import Gpu, installed_gpus, parse_gpus
from criticflow.training.gpu_preflight import check_gpus

LISTED = """\
GPU-11111111-aaaa, NVIDIA H100 80GB HBM3, 580.95.05, 9.0, 81559, 4
GPU-22222222-bbbb, Tesla V100-SXM2-32GB, 580.95.05, 7.0, 32768, 30000
"""
ARCHES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
TORCH = cuda.Torch("2.11.0+cu130", "13.0", ARCHES, 2, "")
CPU_TORCH = cuda.Torch("2.13.0+cpu", None, [], 0, "")


def gpu(capability=(9, 0), total=79.6, used=0.0, driver="580.95.05", name="card") -> Gpu:
    return Gpu("GPU-1", name, driver, capability, total, used)


def test_gpus_are_read_from_what_nvidia_smi_prints():
    first, second = parse_gpus(LISTED)
    assert first == Gpu(
        "GPU-11111111-aaaa", "NVIDIA H100 80GB HBM3", "580.95.05", (9, 0), 81559 / 1024, 4 / 1024
    )
    assert second.capability == (7, 0)
    assert second.free_gib == pytest.approx(2768 / 1024)
    assert parse_gpus("") == []


def test_memory_that_the_driver_does_not_tell_is_not_known():
    (found,) = parse_gpus("GPU-1, NVIDIA GB10, 580.95.05, 12.1, [N/A], [N/A]\n")
    assert math.isnan(found.total_gib)
    assert free_gpus.judge_free([found], 1, 0.5).state == "ok"


def test_a_row_that_is_no_gpu_is_shown():
    with pytest.raises(UserError, match="lacks one of uuid, name"):
        parse_gpus('Field "compute_cap" is not a valid field to query.\n')


@pytest.mark.parametrize(
    ("driver", "version", "state"),
    [
        ("570.86.15", "13.0", "wrong"),
        ("580.65.06", "13.0", "ok"),
        ("535.183.01", "12.9", "ok"),
        ("470.82.01", "12.9", "wrong"),
    ],
)
def test_the_driver_must_be_new_enough_for_torchs_cuda(driver, version, state):
    found = cuda.judge_driver([gpu(driver=driver)], TORCH._replace(cuda=version))
    assert found.state == state
    assert (state == "ok") == (found.mend == "")


@pytest.mark.parametrize(
    ("capability", "arches", "state"),
    [
        ((7, 5), ARCHES, "ok"),
        ((8, 9), ARCHES, "ok"),  # code for 8.0 runs on every 8.x
        ((7, 0), ARCHES, "wrong"),
        ((9, 0), ["sm_90a"], "ok"),
        ((10, 0), ["sm_80", "sm_90"], "wrong"),
        ((10, 0), ["sm_90", "compute_90"], "ok"),  # the driver translates it
        ((7, 0), [], "ok"),  # not known
    ],
)
def test_a_gpu_must_not_be_older_than_what_torch_is_built_for(capability, arches, state):
    assert cuda.judge_generation(gpu(capability), arches).state == state


def test_a_gpu_without_bfloat16_is_wrong_where_something_asks_for_it():
    old = [gpu(), gpu((7, 5), name="T4")]
    found = cuda.judge_bf16(old, ["models.base.dtype"])
    assert (found.state, found.mend) == ("wrong", "models.base.dtype: float32")
    assert cuda.judge_bf16(old, []).state == "ok"
    assert cuda.judge_bf16([gpu()], ["models.base.dtype"]).state == "ok"


def test_a_torch_for_the_cpu_uses_no_gpu():
    assert cuda.judge_torch(CPU_TORCH, 0, needed=True).mend == "make setup DEVICE=gpu"
    assert cuda.judge_torch(CPU_TORCH, 2, needed=False).state == "warning"
    assert cuda.judge_torch(CPU_TORCH, 0, needed=False).state == "ok"
    assert cuda.judge_torch(TORCH._replace(error="no kernel image"), 1, True).state == "wrong"
    missing = cuda.Torch("", None, [], 0, "No module named 'torch'")
    assert cuda.judge_torch(missing, 0, False).state == "wrong"


def test_this_machines_torch_says_what_it_is():
    import torch

    found = cuda.installed_torch()
    assert (found.version, found.cuda) == (torch.__version__, torch.version.cuda)
    assert found.count == torch.cuda.device_count()


@pytest.mark.parametrize(
    ("gpus", "needed", "state", "said"),
    [
        ([], 0, "ok", "none needed"),
        ([gpu()], 2, "wrong", "1 here, a training takes 2"),
        ([gpu(), gpu()], 2, "ok", "2 idle"),
        ([gpu(used=60), gpu()], 2, "wrong", "vLLM asks for 50% of each"),
        ([gpu(used=60), gpu(), gpu()], 2, "ok", "2 idle"),
        ([gpu(used=10), gpu()], 2, "warning", "others use them"),
    ],
)
def test_gpus_must_be_there_and_free(gpus, needed, state, said):
    found = free_gpus.judge_free(gpus, needed, 0.5)
    assert found.state == state
    assert said in found.said


def test_gpus_that_torch_alone_sees_are_not_refused():
    assert free_gpus.judge_free([], 2, 0.5, seen=2).state == "warning"
    assert free_gpus.judge_free([], 2, 0.5, seen=1).state == "wrong"


def test_attention_that_is_not_installed_is_refused(monkeypatch):
    asked = {"models.a.attn_implementation": "flash_attention_2", "models.b": "sdpa"}
    (found,) = tools.judge_attention(asked, environment={}, installed=lambda name: None)
    assert found.state == "wrong"
    assert "models.a.attn_implementation is flash_attention_2, and flash_attn" in found.said
    assert [one.state for one in tools.judge_attention(asked, {}, lambda name: name)] == ["ok"]
    (found,) = tools.judge_attention(asked, {"HF_ATTN_IMPLEMENTATION": "sdpa"}, lambda name: None)
    assert found.state == "ok"  # the environment wins over the configuration
    assert tools.judge_attention({"models.b": "flex_attention"}, environment={})[0].state == "ok"


def test_the_compiler_is_tried(tmp_path):
    compiler, headers = tools.own_compiler()
    assert headers == Path(sysconfig.get_path("include"))
    if (headers / "Python.h").is_file():
        assert tools.judge_compiler(compiler, headers, needed=True).state == "ok"
    assert tools.judge_compiler(compiler, tmp_path, needed=True).state == "wrong"
    assert tools.judge_compiler(compiler, tmp_path, needed=False).state == "warning"
    (tmp_path / "Python.h").write_text("#error broken\n")
    found = tools.judge_compiler(compiler, tmp_path, needed=True)
    assert (found.state, "broken" in found.said) == ("wrong", True)
    assert "no nothing" in tools.judge_compiler("nothing", tmp_path, needed=True).said


def test_a_library_of_the_system_is_loaded():
    assert tools.judge_library("libc.so.6", "libc6").state == "ok"
    found = tools.judge_library("libnobody.so.1", "libnobody1")
    assert (found.state, "apt-get install libnobody1" in found.mend) == ("wrong", True)


def test_cpus_and_memory_of_this_machine():
    seen, allowed = machine.own_cpus()
    assert 1 <= allowed <= seen
    assert machine.judge_cpus(seen, allowed, 0).state == "ok"
    assert machine.judge_cpus(64, 8, 21).state == "warning"
    free = machine.own_memory()
    assert machine.judge_memory(free, None).state == "ok"
    assert machine.judge_memory(free, 2 * free).state == "wrong"
    assert machine.judge_memory(free, free / 2).state == "ok"


def test_the_file_system_of_a_folder_that_is_not_made_yet(tmp_path):
    found = places.place(tmp_path / "not" / "made")
    assert found.writable and found.locks and found.kind != "unknown"
    assert places.judge_results(found, found.free // 2).state == "ok"
    assert "make room" in places.judge_results(found, 2 * found.free).mend
    assert places.judge_results(found._replace(locks=False), 0).state == "warning"
    assert places.judge_results(found._replace(writable=False), 0).state == "wrong"


def test_a_compile_cache_is_one_machines_own_and_has_room(tmp_path):
    cache = places.CACHES[0]
    found = places.place(tmp_path)._replace(kind="ext4", free=places.CACHE_BYTES)
    assert places.judge_cache(cache, found).state == "ok"
    shared = places.judge_cache(cache, found._replace(kind="nfs4"))
    assert (shared.state, shared.mend.split("=")[0]) == ("warning", "export VLLM_CACHE_ROOT")
    assert places.judge_cache(cache, found._replace(free=1)).state == "wrong"
    moved = places.own_caches([cache], {"VLLM_CACHE_ROOT": str(tmp_path / "moved")})
    assert str(tmp_path / "moved") in moved[0].said


def test_a_hub_model_in_the_cache_is_named_by_its_commit(tmp_path, monkeypatch):
    folder = tmp_path / "models--owner--model" / "snapshots" / ("1" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["X"]}))
    (tmp_path / "models--owner--model" / "refs").mkdir()
    (tmp_path / "models--owner--model" / "refs" / "main").write_text("1" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = hub.own_model("owner/model", None)
    assert (found.state, "criticflow fetch" in found.mend) == ("wrong", True)  # no weights yet
    (folder / "model.safetensors").write_bytes(b"weights")
    assert "1" * 40 in hub.own_model("owner/model", None).said
    assert hub.judge_model("owner/model", None, None, lambda: None).state == "warning"


PARTITIONS = """\
gpu*|gpu:h100:8(S:0-1)|2-00:00:00|515000+
mixed|gpu:2,fpga:1|1:00|64000
cpu|(null)|1:00|64000
"""


def test_slurms_partitions_are_judged_by_what_a_training_takes():
    found = slurm.parse_partitions(PARTITIONS)
    assert [(one.name, one.gpus, one.memory) for one in found] == [
        ("gpu", 8, 515000),
        ("mixed", 2, 64000),
        ("cpu", 0, 64000),
    ]
    (fits,) = slurm.judge_slurm(found, 4, 100, plugin=True)
    assert (fits.state, fits.said.endswith("trainings fit gpu")) == ("ok", True)
    (many,) = slurm.judge_slurm(found, 16, None, plugin=True)
    assert "no node has 16 GPUs" in many.said
    (large,) = slurm.judge_slurm(found, 8, 900, plugin=True)
    assert "a training takes 900" in large.said
    assert slurm.judge_slurm(found, 0, None, plugin=False)[0].state == "wrong"


def test_a_controller_that_forgets_jobs_early_is_told():
    assert slurm.judge_memory_of_jobs("MinJobAge               = 300 sec\n") is None
    found = slurm.judge_memory_of_jobs("MinJobAge               = 60 sec\n")
    assert found.mend.startswith("slurm-init-seconds-before-status-checks: 20")


def test_what_is_wrong_is_refused_in_one_line():
    fine = [finding.ok("a", "well"), finding.warning("b", "slow", "buy")]
    finding.refuse(fine)
    with pytest.raises(UserError, match=r"c: bad \(mend it\)"):
        finding.refuse([*fine, finding.wrong("c", "bad", "mend it")])

    def broken() -> None:
        raise UserError("no port here: open one")

    assert finding.checked("ports", broken) == finding.wrong("ports", "no port here", "open one")


@pytest.mark.skipif(bool(installed_gpus()), reason="for machines without a GPU")
def test_a_training_on_gpus_is_refused_where_there_is_none(tmp_path):
    task = Task(kind="gsm8k", source=Source(hub="openai/gsm8k"))
    model = Model(path=str(tmp_path), attn_implementation="flash_attention_2")
    run = Run(model="base", task="gsm8k")
    with pytest.raises(UserError, match="0 here, a training takes 2") as told:
        check_gpus(run, task, model, Resources(gpu=2), str(tmp_path))
    assert "flash_attn is not installed" in str(told.value)
    assert sys.executable not in str(told.value)
