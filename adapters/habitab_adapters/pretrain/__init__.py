"""How the shared base is made: corpus, examples, training, evaluation, export."""
