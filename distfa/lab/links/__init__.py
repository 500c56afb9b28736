"""Bytes and time over shaped links: distfa and torch's pipelines between network namespaces."""
