"""The facts about a run that its report states: its title, its result, its host."""

from __future__ import annotations

from distfa.core.base.model import NO_RULE
from distfa.report.records import Run
from distfa.run.result import best_in_words


def title(run: Run) -> str:
    """Rule, init, layer sizes, and how it ended."""
    sizes = run.result.get("model") or "-".join(map(str, run.sizes))
    accuracy = run.result.get("test_accuracy")
    end = f"test accuracy {accuracy:.2%}" if accuracy is not None else str(run.about.get("status", "status unknown"))
    how = NO_RULE if len(run.sizes) == 2 else run.init
    return f"{run.rule} ({how}), {sizes}: {end}"


def subtitle(run: Run) -> str:
    """Engine, data, date, place."""
    started = str(run.about.get("host", {}).get("started", "unknown time")).replace("T", " ").replace("+00:00", " UTC")
    return f"engine {run.engine} · data {run.about.get('data', 'unknown')} · started {started} · {run.path}"


def result_facts(run: Run) -> dict[str, str]:
    """The result of the run."""
    result = run.result
    facts = {"status": str(run.about.get("status", "unknown")), "seed": str(run.about.get("seed", "unknown"))}
    if not result:
        return facts | {"last logged step": str(run.steps[-1]["step"]) if run.steps else "none"}
    for name in ("train", "test"):
        loss, accuracy = result.get(f"{name}_loss"), result.get(f"{name}_accuracy")
        if loss is not None:
            facts[name] = f"loss {loss:.4f}" + (f", accuracy {accuracy:.2%}" if accuracy is not None else "")
    if best := result.get("best"):
        facts["weights"] = best_in_words(best)
    facts["steps"] = f"{result['steps']:,} in {result['epochs']:,} epochs"
    facts["speed"] = f"{result['samples_per_second']:,.0f} samples/s"
    facts["time"] = f"{result['wall_seconds']:.1f} s, of which {result['startup_seconds']:.1f} s to start"
    if (ledger := result.get("ledger")) and ledger["entries"]:
        facts["ledger"] = f"{ledger['entries']:,} entries, {ledger['violations']:,} broke the law"
    return facts


def layer_facts(run: Run) -> dict[str, str]:
    """Where each layer was, how far it came, and its last error."""
    facts = {}
    for row in run.layers:
        said = f"node {row.get('node', '?')}, pid {row.get('pid', '?')}, step {row.get('step', '?')}"
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
