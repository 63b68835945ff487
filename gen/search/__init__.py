"""Search: the budget of a prompt is spent on the candidates that look best half-way."""
