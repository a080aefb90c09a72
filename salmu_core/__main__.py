"""`python -m salmu_core` is `salmu`; `accelerate launch -m salmu_core run ...` runs on several processes."""

from salmu_core.cli.main import main

if __name__ == "__main__":
    main()
