"""Any module as layers: torch.fx traces its forward, and cuts lie where one tensor alone goes on."""
