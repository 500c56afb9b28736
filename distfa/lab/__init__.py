"""Research tools: questions about feedback alignment, and measurements over shaped links."""
