"""torch's switches for a GPU: set while distfa computes there, and then as the user had them."""

import os

import pytest
import torch
from torch.utils import deterministic

from distfa.core.base.kernels import deterministic_kernels


def switches():
    backends = torch.backends
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,
        backends.cudnn.benchmark,
        *(getattr(backends.cuda, f"{kind}_sdp_enabled")() for kind in ("flash", "mem_efficient", "cudnn")),
        *(part.fp32_precision for part in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)),
    )


@pytest.mark.parametrize("ends_well", [True, False])
def test_they_are_set_and_put_back(ends_well, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = switches()
    assert before[-2] == "tf32"  # torch's own choice for convolutions
    try:
        with deterministic_kernels(torch.device("cuda")):
            assert switches() == (True, True, False, False, False, False, False, "ieee", "ieee", "ieee")
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            if not ends_well:
                raise RuntimeError
    except RuntimeError:
        assert not ends_well
    assert switches() == before


def test_a_processor_needs_none_of_them():
    before = switches()
    with deterministic_kernels(torch.device("cpu")):
        assert switches() == before
