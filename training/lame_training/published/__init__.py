"""Published embedders on Qwen-VL backbones, read from the folders in which they are published.

folder_kind             what a folder holds, by its files and never by its name
sentence_transformers   the modules and settings of a Sentence Transformers folder
transformer_options     how its inputs are processed, and how long they may be
module_folders          the folders of its modules after the backbone: pooling, dense layer
rendered_prompt         the layout of the prompt that its chat template prints
template_checks         whether the template prints more inputs as that layout says
adapter_files           whether the files beside an adapter say the same as those of its base
forms                   what is known of embedders whose folders do not describe themselves
import_embedder         writes a published embedder as a LaME checkpoint with K = 0
kept                    what a training run keeps of a published embedder
official                the checkpoint of LaME's authors, whose layout is not known
writing                 writes a trained LaME model as a Sentence Transformers folder
sample_embedder         writes a small one in random weights, to try things with

A published embedder is a LaME model without reason tokens and without [EMBED]: its vector is the
state of the prompt's last token, or the mean over all tokens. No code of a folder is ever run, and
nothing is downloaded.
"""
