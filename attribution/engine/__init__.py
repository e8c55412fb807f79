"""How a problem on a local model is computed fast: gradients in `backward`, ablated prompts in `ablation`."""
