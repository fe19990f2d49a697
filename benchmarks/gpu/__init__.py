"""What a GPU makes of training, embedding and mining: `python -m benchmarks.gpu`."""
