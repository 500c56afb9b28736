"""The books: the conservation law, its ledger, probes of alignment, digests of both ends."""
