"""Generated from protos/distfa/v1; ``scripts/protos`` writes these files, a test proves them fresh."""
