"""What is trained per backbone: bridge and LoRA, their file, their training."""
