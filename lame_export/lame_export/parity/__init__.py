"""The certificate's rows that need PyTorch, and the inputs that they are measured on.

golden_set           choice of golden inputs, with PyTorch's embeddings of them
calibration_inputs   inputs to calibrate on, and inputs held back to evaluate quantization on
made_inputs          inputs composed of the data's texts and pictures, up to the contract's limits
traced_backend       the traced forward, run by PyTorch
source_rows          contract and traced forward against transformers
retrieval_rows       every graph against PyTorch on evaluation rows
check_rows           findings of checkers
judged               the encoder that a graph is evaluated with
builtin              folder: the data set that serves if an export gets none
verify               the certificate of a finished bundle, measured again
"""
