"""The result of a run, one sentence per question: how good, how long, how many bytes; then how aligned and lawful."""

from __future__ import annotations

from distfa.core.base.metrics import in_words
from distfa.core.rules import BASELINE, RULES
from distfa.report.records import Run
from distfa.report.resuming import ENDED_EARLY, last_checkpoint, resume_command
from distfa.text.words import figure, human_bytes, pluralize


def sentences(run: Run) -> list[str]:
    """One for each question that the run can answer."""
    asked = (_good(run), _time(run), _bytes(run), _resume(run), _recovered(run), _aligned(run), _lawful(run))
    return [answer for answer in asked if answer]


def _good(run: Run) -> str:
    result, status = run.result, str(run.about.get("status", "unknown"))
    if not result:
        last = f" Its last logged step is {run.steps[-1]['step']:,}." if run.steps else ""
        return f"The run has not finished: its status is {status}.{last}"
    best = result.get("best")
    after = f"after {result['steps']:,} steps"
    if best:
        after = f"after step {best['step']:,} (the best of {result['steps']:,} by {best['monitor']})"
    if result.get("test_accuracy") is not None:
        loss = f"with a loss of {figure(result['test_loss'], '.4f')}"
        return f"It gets {result['test_accuracy']:.2%} of the test set right {after}, {loss}.{_metrics(run)}"
    if result.get("test_loss") is not None:
        return f"Its test loss is {figure(result['test_loss'], '.4f')} {after}.{_metrics(run)}"
    return f"Its training loss is {figure(result['train_loss'], '.4f')} {after}; there was no test set."


def _resume(run: Run) -> str:
    if run.about.get("status") not in ENDED_EARLY:
        return ""
    step = last_checkpoint(run)
    where = "It has no checkpoint, so it begins anew" if step is None else f"It can go on from step {step:,}"
    return f"{where}: {resume_command(run)}"


def _recovered(run: Run) -> str:
    gone = run.about.get("recoveries") or []
    if not gone:
        return ""
    again = sum(entry["failed_at"] - entry["step"] for entry in gone)
    return f"It went back to a checkpoint {pluralize(len(gone), 'time')} and computed {pluralize(again, 'step')} again."


def _metrics(run: Run) -> str:
    names = (run.about.get("inputs") or {}).get("class_names") or ()
    said = [in_words(name, value, names) for name, value in (run.result.get("metrics") or {}).items()]
    return f" Metrics of the test set: {'; '.join(said)}." if said else ""


def _aligned(run: Run) -> str:
    if not run.probes:
        return ""
    last = run.probes[-1]
    how = "lowers the loss" if last["dominance"] > 0 else "does not lower the loss"
    weakest = min(last["layers"], key=lambda layer: float(layer["cosine"]))
    return (
        f"At step {last['step']:,} its updates have a cosine of {last['cosine']:.2f} with the true gradient "
        f"(layer {weakest['layer']} is lowest, at {weakest['cosine']:.2f}), and a small step along them {how}."
    )


def _lawful(run: Run) -> str:
    if not run.entries:
        return ""
    broken = sum(not holds for holds in run.of_entries("holds"))
    entries = f"{run.entries:,} ledger entr{'y' if run.entries == 1 else 'ies'}"
    rule = RULES.known(run.rule)
    held, broke = "The conservation law held", "The conservation law broke"
    if rule is not None and not rule.has_law:
        held, broke = "The books balance", "The books do not balance"
    if broken:
        return f"{broke} in {broken:,} of {entries}: what was sent and what was used differ."
    return f"{held} in all {entries}."


def _bytes(run: Run) -> str:
    total = run.result.get("bytes", {}).get("total") or {}
    if run.engine == "serial" or not total:
        return ""
    sent = total["up_payload"] + total["down_payload"]
    if not sent:
        return ""
    said = f"Its layers sent each other {human_bytes(sent)}"
    if run.rule == BASELINE or not total.get("bp_payload"):
        return said + "."
    return f"{said}; backpropagation would have sent {total['bp_payload'] / sent:.2f} times as much."


def _time(run: Run) -> str:
    result = run.result
    if not result:
        return ""
    start = result["startup_seconds"]
    said = f"It took {result['wall_seconds']:.1f} s, of which {start:.1f} s to start"
    layers = result.get("facts", {}).get("layers", [])
    busy, wait = (sum(row[key] for row in layers) for key in ("busy_seconds", "wait_seconds"))
    if not layers or not busy + wait:
        return said + "."
    slowest = max(layers, key=lambda row: float(row["busy_seconds"]))
    return (
        f"{said}. Layers spent {busy / (busy + wait):.0%} of their time computing and sending, and the rest "
        f"waiting; layer {slowest['layer']} was the busiest."
    )
