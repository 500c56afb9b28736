"""The conclusion of a comparison is true of its rows: of medians, and of seeds."""

from distfa.lab.links.accuracy_curve import Curve
from distfa.lab.links.conclusion import conclusion


def row(name, megabytes, steps=100, **more):
    return {"name": f"distfa {name}", "codec": "lossless/lossless", "payload_mb": megabytes, "steps": steps, **more}


def curves(*megabytes):
    return [Curve(steps=[100], payload_bytes=[mb or 0], accuracy=[0.9], reached=mb is not None) for mb in megabytes]


def said(rows, by_seed=None):
    rules = [one["name"].split()[1] for one in rows]
    return conclusion(rows, rules, by_seed or [curves(one["payload_mb"]) for one in rows], 0.9)


def test_the_fewest_bytes_are_the_fewest_bytes():
    assert "distfa dfa with lossless/lossless sends the fewest bytes, 40.0 MB: 0.5 of what bp sends" in said(
        [row("bp", 80.0), row("dfa", 40.0)]
    )
    fewer = said([row("bp", 40.0), row("dfa", 80.0)])
    assert "bp with lossless/lossless sends the fewest bytes, 40.0 MB; of the others distfa dfa" in fewer
    assert ": 2 of what bp sends" in fewer


def test_seeds_are_counted_where_medians_may_mislead():
    """The medians say twice fewer; seed by seed it is fewer once in three."""
    rows = [row("bp", 80.0), row("dfa", 40.0)]
    assert "(fewer in 1 of 3 seeds)" in said(rows, [curves(10, 80, 90), curves(40, None, 30)])
    assert "seeds" not in said(rows)


def test_a_target_that_one_side_missed_is_said():
    missed = {"payload_mb": None, "steps": None}
    assert said([row("bp", 1.0) | missed, row("dfa", 4.0)]).endswith("4 MB; bp did not reach it")
    assert "only bp was measured" in said([row("bp", 1.0), row("dfa", 4.0) | missed])
    assert "none reached 90.00% test accuracy" in said([row("bp", 1.0) | missed, row("dfa", 4.0) | missed])
