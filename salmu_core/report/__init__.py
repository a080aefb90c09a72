"""From a leaderboard to pages and tables. Nothing here imports torch."""
