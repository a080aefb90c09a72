"""Commands of this package, one file each."""
