"""From records to a leaderboard: gaps, verdicts, tests of differences. Nothing here imports torch."""
