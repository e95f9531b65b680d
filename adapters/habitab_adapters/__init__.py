"""How weights are learned: personal adapters, and the shared base that they start from (`pretrain`)."""
