"""Implements the program `lame-export`.

main             the parser of all commands
bundle_command   checkpoint to bundle; also `optimum-cli export lame`
engine_command   bundle to TensorRT plans; needs only lame-runtime
triton_command   bundle to a repository of Triton Inference Server; needs only lame-runtime
verify_command   the certificate repeated against the checkpoint
bisect_command   layer at which a graph deviates from PyTorch
demo_command     the whole pipeline on handwritten digits
sentence_transformers_command   checkpoint to a Sentence Transformers folder
graph_extra      the message for a missing extra `lame-export[graph]`
"""
