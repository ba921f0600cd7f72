"""Everything that is kept on disk: experts, priors and results, each under the digest of its recipe."""
