"""What is kept on disk: experts, priors and results, each under the digest of what made it."""
