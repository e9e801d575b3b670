"""Reads and writes files that may be hostile, damaged, or shared with other processes.

regular         opens regular files only: no pipe, socket or device, not more bytes than expected
json_file       reads JSON, bounded in size and depth
constraints     ranges of the fields of a JSON file
tokenizer_json  reads tokenizers of the kind that LaME uses, and no others
graphs          reads ONNX files, and refuses those that could do harm
urls            refuses URLs, decodes `data:` URIs, opens pictures and other media by name
in_memory       bytes of buffers and open files that a caller handed in
fork_lock       a lock that forked processes do not inherit locked
atomic          writes files and folders that appear complete or not at all

No other module opens a file by a name that a user, a bundle or a data set gave.
"""
