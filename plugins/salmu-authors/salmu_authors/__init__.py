"""For those who write plugins: write a package, check whether it keeps the contract, test it."""
