"""`finetune/processes.py`: the device of each of torchrun's processes, refused before they wait for each other."""

import pytest
import torch

from converters.cli.errors import DatasetError
from finetune.training.processes import prepare_device


@pytest.fixture(autouse=True)
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)


def test_one_gpu_for_all_processes_is_refused() -> None:
    with pytest.raises(DatasetError, match="--device cuda:0: torchrun's processes take a GPU each"):
        prepare_device("cuda:0")


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="has a second GPU")
def test_process_without_a_gpu_of_its_own_is_told_in_one_line() -> None:
    with pytest.raises(DatasetError, match=r"^--device cuda: .+$"):
        prepare_device("cuda")
