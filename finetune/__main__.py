"""`python -m finetune` and `accelerate launch -m finetune`."""

from finetune.cli import main
from finetune.commands.launch import run

if __name__ == "__main__":
    run(main)
