"""Passes that read the checkpoint and the data of an export.

load_checkpoint   model, contract and tokenizer
choose_golden     golden inputs and PyTorch's embeddings of them
trace_graphs      the FP32 graphs
prove_contract    the contract against transformers' processor
scan_ranges       ranges of activations over calibration inputs
"""
