"""codec: auto chooses by what links and processors really cost, and is a named codec from then on."""

import pytest
import torch
from runs import assert_same_bits, recipe

from distfa import data
from distfa.codecs import CODECS, LOSSLESS, resolve
from distfa.codecs.choice import AUTO, CANDIDATES, choose_codec, time_candidates
from distfa.codecs.timing import Timing
from distfa.intake.subject import subject_for
from distfa.run.run import run
from distfa.runtime.auto_codec import choose_codecs
from distfa.runtime.job import Job
from distfa.settings import load_spec, parse_change, parse_spec

pytestmark = pytest.mark.usefixtures("shared_ray")


SECONDS = dict(zip(CANDIDATES, (0, 2e-4, 6e-4, 5e-5, 2e-4, 5e-4, 2e-4, 5e-4), strict=True))


class Simulated:
    """A layer whose node has a link of this many bytes a second."""

    def __init__(self, bytes_per_second):
        self.rate, self.asked = bytes_per_second, 0

    def time_codecs(self, rows, columns, zeros):
        # its lengths; its times depend on the machine
        found = time_candidates(rows, columns, torch.float32, zeros=zeros)
        return {n: Timing(SECONDS[n], SECONDS[n] / 2, size) for n, (_, _, size) in found.items()}

    def seconds_from(self, other, size_bytes):
        self.asked += size_bytes
        return size_bytes / min(self.rate, other.rate)


def settled(*layers, nodes, activations=AUTO, errors=AUTO):
    r = recipe((64, 512, 512, 10), batch_size=128)
    job = Job(run_id="r", recipe=r, activation_codec=activations, error_codec=errors, train_rows=75)
    return choose_codecs(job, layers, nodes)


def test_a_fast_link_spares_the_processor_and_a_slow_one_takes_few_bytes():
    same = [Simulated(1e9) for _ in range(3)]
    job, _ = settled(*same, nodes="aaa")
    assert {job.activation_codec, job.error_codec} <= {LOSSLESS, "packed", "bf16"}
    assert sum(layer.asked for layer in same) == 0  # one node: there is no link to measure
    slow = [Simulated(2.5e6) for _ in range(3)]
    job, about = settled(*slow, nodes="aab")
    assert job.activation_codec in ("int8+zstd", "uint8+zstd")
    assert not resolve(job.error_codec, torch.float32).lossless(torch.float32)
    assert about["link_bytes_per_second"] == pytest.approx(2.5e6, rel=0.02)
    assert slow[0].asked == 0  # only the boundary between two nodes
    assert min(about["activations"]["message_ms"].values()) == about["activations"]["message_ms"][job.activation_codec]


def test_a_named_way_stays_as_it_is():
    job, about = settled(*[Simulated(1e6)] * 3, nodes="abc", errors="fp32")
    assert job.error_codec == "fp32"
    assert "errors" not in about
    assert job.activation_codec != AUTO


def test_no_candidate_is_further_off_than_int8():
    signal = torch.randn(64, 300, generator=torch.Generator().manual_seed(0))
    bound = signal.abs().amax(dim=1, keepdim=True) / 254 * 1.001
    for name in CANDIDATES:
        codec = resolve(name, torch.float32)
        found = codec.decode(codec.encode(signal), 64, 300, torch.float32)
        assert ((found - signal).abs() <= torch.maximum(bound, signal.abs() * 2.0**-8)).all()


@pytest.mark.parametrize(("saving", "chosen"), [(0.95, "fp32"), (0.85, "int8")])
def test_a_loss_must_save_a_tenth(saving, chosen):
    measured = {"fp32": Timing(0.0, 0.0, 1000), "int8": Timing(0.0, 0.0, round(1000 * saving))}
    assert choose_codec(measured, 1e-3, lambda name: CODECS[name].lossless(torch.float32)).name == chosen


def test_one_word_names_the_codec_of_both_ways():
    spec = load_spec(None, [parse_change("codec=auto"), parse_change("codec.errors=int8")])
    assert (spec.codec.activations, spec.codec.errors) == ("auto", "int8")
    assert parse_spec({"codec": "int4"}).codec.errors == "int4"


def test_a_run_on_ray_settles_it_once_and_says_so(tmp_path):
    digits = data.load("digits", limit=100)
    spec = parse_spec({"model": {"hidden": [24]}, "epochs": 2, "codec": "auto", "run_dir": str(tmp_path / "ray")})
    subject = subject_for(spec, digits)
    result, weights = run(spec, subject.network, digits)
    found = result.facts["codec"]
    assert {found[way]["codec"] for way in ("activations", "errors")} <= set(CANDIDATES)
    named = {way: found[way]["codec"] for way in ("activations", "errors")}
    again = parse_spec({**spec.model_dump(), "codec": named, "engine": "serial", "run_dir": str(tmp_path / "serial")})
    assert_same_bits(run(again, subject.network, digits)[1], weights)
