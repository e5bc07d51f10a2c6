"""One small site in three worlds: what its pages do is written once, how they answer is each world's own."""
