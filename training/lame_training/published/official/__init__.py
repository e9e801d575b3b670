"""The checkpoint that the authors of LaME published, whose layout no page describes.

official_card     what its model card states, with source and date
tensor_table      the table of what every tensor was taken for
backbone_tensors  finds the tensors of the backbone and of the latent decoder, under any prefix
latent_tensors    finds reason tokens, [EMBED] and projection among the others
import_official   writes the folder as a checkpoint, or says which tensors are not understood
"""
