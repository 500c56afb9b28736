"""On a GPU: layer workers and Ray's actors equal the serial engine bit for bit, as on a processor. Needs a GPU."""

import numpy as np
import pytest
import torch
from runs import ThreadRun, assert_same_bits, raw, recipe, run_serial
from torch import nn
from zoo import NETWORKS, made

from distfa import codecs
from distfa.api.trainer import Trainer
from distfa.core.base.kernels import deterministic_kernels
from distfa.core.base.recipe import RenewConfig
from distfa.core.books.ledger import LedgerRecord, describe_violation
from distfa.core.rules import RULES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch sees")
CUDA = torch.device("cuda")
SMALL = {"rows": 20, "test_rows": 4, "max_steps": 3, "epochs": 2, "ledger_every": 1, "probe_every": 2}
HOW = (("sync", 1), ("sync", 4), ("async", 8))
NAMES = ("mlp", *NETWORKS)
CASES = [(network, rule, *HOW[(i + j) % 3]) for i, network in enumerate(NAMES) for j, rule in enumerate(RULES)]


@pytest.fixture(autouse=True)
def _repeatable():
    """Workers are threads here, and each puts torch's switches back at its end; in Ray each has a process."""
    with deterministic_kernels(CUDA):
        yield


def network_of(name, **settings):
    if name != "mlp":
        return made(name, **{**SMALL, **settings})
    plain = {k: v for k, v in {**SMALL, **settings}.items() if k not in ("rows", "test_rows")}
    r = recipe(**plain)
    return r, None, raw(r)


@pytest.mark.parametrize(("network", "rule", "schedule", "micro_batches"), CASES)
def test_workers_over_grpc_equal_serial(network, rule, schedule, micro_batches):
    r, modules, data = network_of(network, rule=rule, schedule=schedule, micro_batches=micro_batches)
    expected, records, _ = run_serial(r, data, modules=modules, device="cuda")
    with ThreadRun(r, data, modules=modules, device="cuda") as run:
        found, _ = run.train()
    assert all(weight.device.type == "cuda" for weight in expected.values())
    assert_same_bits({key: weight.cpu() for key, weight in expected.items()}, found)
    entries = [record for record in records if isinstance(record, LedgerRecord)]
    assert [describe_violation(entry) for entry in entries if not entry.holds] == []


@pytest.mark.parametrize("network", NAMES)
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "dkp"])
def test_a_gpu_computes_what_a_processor_does(network, rule):
    """Without dropout, which draws other numbers there."""
    r, modules, data = network_of(network, rule=rule, dtype=torch.float64)
    for module in (part for layer in (modules or {}).values() for part in layer.modules()):
        if isinstance(module, nn.Dropout | nn.MultiheadAttention):
            setattr(module, "dropout" if isinstance(module, nn.MultiheadAttention) else "p", 0.0)
    gpu, records, _ = run_serial(r, data, modules=modules, device="cuda")
    processor, _, _ = run_serial(r, data, modules=modules)
    for key, weight in processor.items():
        assert torch.allclose(gpu[key].cpu().double(), weight.double(), rtol=1e-7, atol=1e-9), key
    entries = [record for record in records if isinstance(record, LedgerRecord)]
    for entry in entries:
        assert abs(entry.residual) < 1e-12 * max(1.0, abs(entry.incoming))


@pytest.mark.parametrize("network", NAMES)
def test_renewal_and_mixed_precision(network):
    renew = {"rule": "dkp", "renew": RenewConfig(every=2)}
    for changes in (renew, {**renew, "mixed": True}):
        r, modules, data = network_of(network, **changes)
        expected, _, _ = run_serial(r, data, modules=modules, device="cuda")
        with ThreadRun(r, data, modules=modules, device="cuda", transport="loopback") as run:
            found, _ = run.train()
        assert_same_bits({key: weight.cpu() for key, weight in expected.items()}, found)


@pytest.mark.parametrize("name", sorted(codecs.CODECS))
def test_a_codec_makes_the_same_bytes_of_a_signal_on_a_gpu(name):
    signal = torch.randn(33, 257, generator=torch.Generator().manual_seed(0)).relu_()
    codec = codecs.resolve(name, signal.dtype)
    assert bytes(codec.encode(signal.to(CUDA))) == bytes(codec.encode(signal))


@pytest.mark.parametrize("rule", ["dfa", "fa"])
def test_ray_actors_that_share_a_gpu_equal_serial(rule, tmp_path):
    x = np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype(np.float32)
    y = np.arange(60) % 3
    weights = {}
    for engine in ("ray", "serial"):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 9), nn.ReLU()
        ).append(nn.Linear(9, 3))
        settings = {"engine": engine, "device": "cuda", "epochs": 3, "batch_size": 16, "schedule": "async"}
        trainer = Trainer(model, rule=rule, micro_batches=4, run_dir=str(tmp_path / engine), **settings)
        trainer.fit((x[:45], y[:45]), (x[45:], y[45:]))
        weights[engine] = model.state_dict()
        assert {weight.device.type for weight in weights[engine].values()} == {"cpu"}
    assert_same_bits(weights["ray"], weights["serial"])
