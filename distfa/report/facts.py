"""What a run is in lists of names and values: its outcome, its settings, where its layers were, its machine."""

from __future__ import annotations

from typing import Any

from distfa.report.records import Run, have_shared_workers
from distfa.run.result import best_in_words
from distfa.settings import RunSpec, flat
from distfa.text.words import figure, human_bytes

_ALWAYS = (
    *("rule", "init", "loss", "optimizer.name", "optimizer.lr", "epochs", "batch_size", "micro_batches", "schedule"),
    *("codec.activations", "codec.errors", "seed"),
)
_BESIDE = ("run_dir", "launch.", "ray.", "wire.host", "wire.ports")


def result_facts(run: Run) -> dict[str, str]:
    """The outcome of the run."""
    result, facts = run.result, {"status": str(run.about.get("status", "unknown"))}
    if not result:
        return facts | {"last logged step": str(run.steps[-1]["step"]) if run.steps else "none"}
    for name in ("test", "train"):
        loss, accuracy = result.get(f"{name}_loss"), result.get(f"{name}_accuracy")
        if loss is not None:
            facts[name] = (f"accuracy {accuracy:.2%}, " if accuracy is not None else "") + f"loss {figure(loss, '.4f')}"
    if best := result.get("best"):
        facts["weights"] = best_in_words(best)
    facts["steps"] = f"{result['steps']:,} in {result['epochs']:,} epochs"
    facts["speed"] = f"{result['samples_per_second']:,.0f} samples/s"
    facts["time"] = f"{result['wall_seconds']:.1f} s, of which {result['startup_seconds']:.1f} s to start"
    total = result.get("bytes", {}).get("total") or {}
    if sent := (total.get("up_payload") or 0) + (total.get("down_payload") or 0):
        facts["bytes"] = f"{human_bytes(sent)} between layers"
        facts["by bp"] = human_bytes(total["bp_payload"]) if total.get("bp_payload") else "not known"
    if (ledger := result.get("ledger")) and ledger["entries"]:
        facts["ledger"] = f"{ledger['entries']:,} entries, {ledger['violations']:,} broke the law"
    return facts


def setting_facts(run: Run) -> dict[str, str]:
    """The settings that a reader asks for, and every other that is not at its default."""
    spec, defaults = flat(run.spec), flat(RunSpec().model_dump(mode="json"))
    changed = (key for key, value in spec.items() if key in defaults and value != defaults[key])
    keys = dict.fromkeys([*_ALWAYS, *(key for key in changed if not key.startswith(_BESIDE))])
    return {key: _in_words(spec[key]) for key in keys if spec.get(key) is not None}


def _in_words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def layer_facts(run: Run) -> dict[str, str]:
    """Where each layer was, how far it came, and its last error."""
    facts, shared = {}, have_shared_workers(run.layers)
    for row in run.layers:
        said = f"worker {row['worker']}, " if shared else ""
        said += f"node {row.get('node', '?')}, pid {row.get('pid', '?')}, step {row.get('step', '?')}"
        if queue := row.get("queue"):
            said += f", {queue} signal{'s wait' if queue > 1 else ' waits'}"
        if last := row["last_error"]:
            said += f"; last error, in attempt {last['attempt']}: {last['error']}"
        facts[f"layer {row['layer']}"] = said
    return facts


def host_facts(run: Run) -> dict[str, str]:
    """The machine and software it ran on."""
    host = run.about.get("host", {})
    load = ", ".join(f"{value:.1f}" for value in host.get("load_average", []))
    return {
        "processor": f"{host.get('processor', 'unknown')}, {host.get('cpus', '?')} cores, load {load} at the start",
        "accelerator": str(host.get("cuda") or "none"),
        "system": str(host.get("platform", "unknown")),
        "versions": ", ".join(f"{name} {host.get(name, '?')}" for name in ("distfa", "torch", "python")),
        "command": " ".join(map(str, host.get("command", []))),
    }
