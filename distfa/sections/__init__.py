"""Any module as layers: torch.fx traces its forward, and a cut lies where a single tensor is passed on."""
