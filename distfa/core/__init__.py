"""Pure torch: layers, rules, losses, the schedule and the serial oracle. No I/O, no Ray, no gRPC."""
