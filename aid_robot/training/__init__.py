"""Train AID: a small VAE, the prior without text, then AID on the frozen prior."""
