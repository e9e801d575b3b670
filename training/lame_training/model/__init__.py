"""The LaME model in PyTorch, and the folders its weights are read from and written to.

lame              the model and its forward pass
components        its input tensors, the latent connector, the names of its trainable parts
backbones         the supported Qwen-VL families; loads backbones and latent decoders
adapters          LoRA and DoRA through PEFT: adds and saves adapters
checkpoint        reads and writes the model files of a checkpoint folder
torch_backend     runs a checkpoint inside the runtime's `Encoder`, as the reference of exports
packed_attention  a faster vision attention for batches of many small pictures
upcast            computes in FP32 with weights that are stored in half precision
from_disk         reads folders of weights that come from others, and merges adapters
published_shapes  configs of the published backbones, without weights
"""
